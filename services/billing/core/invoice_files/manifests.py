"""Which files of a folder are one delivery: what a manifest lists, or all of them if there is no manifest.

AWS writes `…/data/BILLING_PERIOD=2026-05/…` and, last, `…/metadata/BILLING_PERIOD=2026-05/…-Manifest.json`. An export
that keeps every refresh has one more folder below each period. Beside it may stand `…-Manifest-FOCUS.json`, which
lists the same files.

Azure writes `EXPORT/20260901-20260930/RUN/manifest.json` beside the parts that it lists, with or without the folder
of the run (https://learn.microsoft.com/azure/cost-management-billing/costs/tutorial-improved-exports). Each run is a
whole snapshot: the newest one of a period is the delivery.

Google and Oracle write no manifest: all files below the folder are one delivery.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from shared.errors import Rejected
from shared.messages.codec import Unreadable, decode

_PERIOD = re.compile(r"\d{8}-\d{8}")
"""Azure's folder of a period: its first and its last day."""


@dataclass(frozen=True)
class DeliveryPlan:
    """One delivery: the files to send, by their names in the folder, and those that its manifest lists."""

    files: tuple[str, ...]
    listed: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes by file, for files whose size the manifest gives."""


class _Blob(msgspec.Struct):
    name: str = msgspec.field(name="blobName")
    size_bytes: int | None = msgspec.field(default=None, name="byteCount")


class _Export(msgspec.Struct):
    name: str = msgspec.field(default="", name="exportName")


class _Run(msgspec.Struct):
    submitted: str = msgspec.field(default="", name="submittedTime")
    id: str = msgspec.field(default="", name="runId")
    start: str = msgspec.field(default="", name="startDate")


class _Manifest(msgspec.Struct):
    """AWS's `dataFiles`, or `reportKeys` in its older form; all other fields are Azure's."""

    data_files: tuple[str, ...] = msgspec.field(default=(), name="dataFiles")
    report_keys: tuple[str, ...] = msgspec.field(default=(), name="reportKeys")
    blobs: tuple[_Blob, ...] = ()
    size_bytes: int | None = msgspec.field(default=None, name="byteCount")
    export: _Export = msgspec.field(default_factory=_Export, name="exportConfig")
    run: _Run = msgspec.field(default_factory=_Run, name="runInfo")


def plan_deliveries(names: Sequence[str], read: Callable[[str], bytes]) -> tuple[DeliveryPlan, ...]:
    """Return the deliveries of a folder with these files: one for each billing period that has a manifest.

    `read` returns a manifest's content.

    Raises:
        Rejected: a manifest cannot be read, or the folder has no invoice file.
    """
    shown = sorted(name for name in names if not _file_name(name).startswith((".", "_")))
    manifests = [name for name in shown if _is_manifest(name)]
    if manifests:
        return _plans_from_manifests(manifests, read, [name for name in shown if name not in manifests])
    files = tuple(name for name in shown if "metadata" not in _folders(name.casefold()))
    if not files:
        raise Rejected("there is no invoice file: name a file, or a folder that has some")
    return (DeliveryPlan(files),)


def _plans_from_manifests(
    manifests: Sequence[str], read: Callable[[str], bytes], names: Sequence[str]
) -> tuple[DeliveryPlan, ...]:
    """AWS's periods in order of their names, then Azure's in the order in which their runs were submitted."""
    aws = [name for name in manifests if "metadata" in _folders(name.casefold())]
    aws_plans = [_plan(name, _decode(name, read(name)), names) for name in _last_refreshes(aws)]
    others = {name: _decode(name, read(name)) for name in manifests if name not in aws}
    return (*aws_plans, *(_plan(name, others[name], names) for name in _newest_runs(others)))


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]


def _folders(name: str) -> list[str]:
    return name.split("/")[:-1]


def _is_manifest(name: str) -> bool:
    """A name that only a manifest has: such a file is never an invoice, wherever it lies."""
    base = _file_name(name).casefold()
    return base == "manifest.json" or base.endswith(("-manifest.json", "-manifest-focus.json"))


def _last_refreshes(manifests: Sequence[str]) -> list[str]:
    """Return the last manifest of each AWS period: refreshes have folders that are named by their time."""
    by_period: dict[tuple[str, ...], str] = {}
    for name in sorted(manifests, key=lambda name: (_folders(name), not name.casefold().endswith("-focus.json"))):
        folders = _folders(name.casefold())
        below = folders.index("metadata") + 1
        by_period[tuple(folders[: below + 1])] = name
    return list(by_period.values())


def _newest_runs(manifests: Mapping[str, _Manifest]) -> list[str]:
    """Return the run that was submitted last, for each export and period."""
    submitted = {name: _submitted_at(name, manifest) for name, manifest in manifests.items()}
    newest: dict[tuple[str, ...], str] = {}
    for name in sorted(manifests, key=lambda name: (submitted[name], name)):
        newest[_export_and_period(name, manifests[name])] = name
    return sorted(newest.values(), key=lambda name: (submitted[name], name))


def _submitted_at(name: str, manifest: _Manifest) -> datetime:
    submitted = manifest.run.submitted
    if not manifest.blobs:  # AWS's, in a folder of its own kind: of the older report, which has no such time
        return datetime.min.replace(tzinfo=UTC)
    try:
        time = datetime.fromisoformat(submitted)
    except ValueError as error:
        reason = f"expected a time such as 2026-10-02T06:00:00Z, got {submitted[:100]!r}"
        raise Rejected(f"{name}: runInfo.submittedTime: {reason}: fetch the delivery again") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _export_and_period(name: str, manifest: _Manifest) -> tuple[str, ...]:
    """What a run is a snapshot of: an export, and its period by its folder or else by the day on which it starts."""
    folders, run = _folders(name), manifest.run
    periods = [place for place, folder in enumerate(folders) if _PERIOD.fullmatch(folder)]
    if periods:
        return (*folders[: periods[-1] + 1], manifest.export.name)
    return (*(folders[:-1] if folders and folders[-1] == run.id else folders), manifest.export.name, run.start)


def _decode(name: str, content: bytes) -> _Manifest:
    try:
        return decode(content.removeprefix(BOM_UTF8), _Manifest)
    except Unreadable as error:
        raise Rejected(f"{name}: not a manifest ({error}): wait until the delivery is complete") from error


def _plan(name: str, manifest: _Manifest, names: Sequence[str]) -> DeliveryPlan:
    keys = tuple(blob.name for blob in manifest.blobs) or manifest.data_files or manifest.report_keys
    if not keys:
        raise Rejected(f"{name}: lists no files: expected `blobs`, `dataFiles` or `reportKeys`")
    if manifest.blobs:
        beside = {_file_name(place): place for place in names if _folders(place) == _folders(name)}
        matches = {key: beside.get(_file_name(key)) for key in keys}
    else:
        matches = {key: _match_name(key, names) for key in keys}
    return DeliveryPlan(
        tuple(place for place in matches.values() if place),
        tuple(place or key for key, place in matches.items()),
        _sizes(manifest, matches),
    )


def _match_name(key: str, names: Sequence[str]) -> str | None:
    """The file of the folder that a manifest's key (a path or URL that ends with its name) means."""
    ends = [name for name in names if f"/{key}".casefold().endswith(f"/{name}".casefold())]
    return max(ends, key=len, default=None)


def _sizes(manifest: _Manifest, matches: Mapping[str, str | None]) -> dict[str, int]:
    """Return the plain CSV files' sizes in bytes; none if they do not add up to the size that the manifest has for all.

    gzip and Parquet show by themselves that a file was cut off, and a size may be told of what is packed in them.
    """
    sizes = {blob.name: blob.size_bytes for blob in manifest.blobs if blob.size_bytes is not None}
    if len(sizes) < len(manifest.blobs) or sum(sizes.values()) != manifest.size_bytes:
        return {}
    return {place: sizes[key] for key, place in matches.items() if place and place.casefold().endswith(".csv")}
