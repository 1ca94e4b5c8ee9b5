"""Which files of a folder are one delivery: what a manifest lists, or where there is none all of them.

As AWS lays it out: `…/data/BILLING_PERIOD=2026-05/…` and, written last, `…/metadata/BILLING_PERIOD=2026-05/
…-Manifest.json`, in capitals or not; an export that keeps every refresh has one more folder below each period.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from shared.errors import Refusal
from shared.messages.codec import Unreadable, decode

_MANIFEST = "-manifest.json"


@dataclass(frozen=True)
class Plan:
    """One delivery: the files to send, by their names in the folder, and those that its manifest lists."""

    files: tuple[str, ...]
    wanted: tuple[str, ...] = ()


class _Manifest(msgspec.Struct):
    data_files: tuple[str, ...] = msgspec.field(default=(), name="dataFiles")
    report_keys: tuple[str, ...] = msgspec.field(default=(), name="reportKeys")


def plans(names: Sequence[str], read: Callable[[str], bytes]) -> tuple[Plan, ...]:
    """The deliveries of a folder with these files, one for each billing period that has a manifest.

    `read` gives a manifest's content. `Refusal` where it is none, or the folder is empty.
    """
    shown = sorted(name for name in names if not name.rpartition("/")[2].startswith((".", "_")))
    manifests = _newest([name for name in shown if _is_manifest(name)])
    if manifests:
        return tuple(_plan(manifest, read(manifest), shown) for manifest in manifests)
    files = tuple(name for name in shown if "metadata" not in name.casefold().split("/")[:-1])
    if not files:
        raise Refusal("there is no invoice file: name a file, or a folder that has some")
    return (Plan(files),)


def _is_manifest(name: str) -> bool:
    *folders, file = name.casefold().split("/")
    return "metadata" in folders and file.endswith(_MANIFEST)


def _newest(manifests: Sequence[str]) -> list[str]:
    """Of each period the last one by name: refreshes are named by their time."""
    by_period = {}
    for name in manifests:
        folders = name.casefold().split("/")
        below = folders.index("metadata") + 1
        by_period[tuple(folders[: min(below + 1, len(folders) - 1)])] = name
    return list(by_period.values())


def _plan(manifest: str, content: bytes, names: Sequence[str]) -> Plan:
    try:
        told = decode(content, _Manifest)
    except Unreadable as error:
        raise Refusal(f"{manifest}: not a manifest ({error}): wait until the delivery is complete") from error
    keys = told.data_files or told.report_keys
    if not keys:
        raise Refusal(f"{manifest}: lists no files: expected `dataFiles` or `reportKeys`")
    found = {key: _named(key, names) for key in keys}
    return Plan(tuple(name for name in found.values() if name), tuple(name or key for key, name in found.items()))


def _named(key: str, names: Sequence[str]) -> str | None:
    """The file of the folder that a manifest's key (a path or URL that ends with its name) means."""
    ends = [name for name in names if f"/{key}".casefold().endswith(f"/{name}".casefold())]
    return max(ends, key=len, default=None)
