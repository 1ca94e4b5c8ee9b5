"""When a day's report is a new revision, and in which state. `change_reason` says why it differs."""

import hashlib
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from services.billing.core.revisions.charge_digest import SourceCharges
from shared.messages.billing import DayReport, FigureState
from shared.messages.codec import decode, encode
from shared.messages.meter import TokenSums


class FileInput(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """An imported file. `rows` were delivered with it for one issuer, account and billing period."""

    source: str
    file_name: str
    sha256: str
    rows: int = 0


class RevisionInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What a report was made from, kept with it: long lists as their hash and their length."""

    over: bool = False
    """Whether the day was over."""
    files: tuple[FileInput, ...] = ()
    charges: int = 0
    invoices: tuple[tuple[str, str, str, str], ...] = ()
    """Source, issuer, id and standing of each invoice of the day's billing periods."""
    accruals: int = 0
    accruals_sha256: str = ""
    transitions: int = 0
    transitions_sha256: str = ""
    served: TokenSums = TokenSums()
    failed_tokens: int = 0
    usage_rows: int = 0
    usage_sha256: str = ""
    busy_sha256: str = ""
    usage_complete: bool = False
    usage_reasons: tuple[str, ...] = ()
    settings_sha256: str = ""
    was_final: bool = False
    """Whether a revision before this one was final; no input, so the digest leaves it out."""
    sources: tuple[SourceCharges, ...] | None = None
    """The day's charges by source; None where an older version kept it."""
    estimate: Decimal | None = None
    """The part of the spend that no charge covers, in USD; None where an older version kept it."""
    settings: dict[str, str] = {}
    """Settings by name: what they are, or `HASH_PREFIX` and their hash. Empty where an older version kept it."""

    @property
    def digest(self) -> str:
        return sha256(msgspec.structs.replace(self, was_final=False))


class StoredRevision(NamedTuple):
    """A day's newest revision as it was kept."""

    report: DayReport
    inputs: RevisionInputs
    figures: dict[str, Any]
    """The report's JSON: it has no figure that the version which kept it did not know."""

    @property
    def was_final(self) -> bool:
        """Whether this revision or one before it was final."""
        return self.inputs.was_final or self.report.state == "final"


HASH_PREFIX = "sha256:"
"""Begins a setting that is too long to be kept itself."""
_UNCOMPARED_FIELDS = frozenset({"revision", "change", "state", "sources"})
"""The fields of a report that are not compared. It makes no difference which file with the same charges is named."""


def sha256(data: object) -> str:
    """Return the hash of its JSON; equal content has equal hashes."""
    return hashlib.sha256(msgspec.json.encode(data, order="deterministic")).hexdigest()


def needs_revision(report: DayReport, inputs: RevisionInputs, newest: StoredRevision) -> bool:
    """Whether a figure, the state or the content of the charges differs from the newest revision.

    How often and in which files the same charges were delivered makes no difference, and neither does a setting or an
    invoice by which nothing else changes. Once a day was final, no invoice changes its state any more. What the
    newest revision does not record, because an older version kept it, is not compared.
    """
    if not newest.was_final and report.state != newest.report.state:
        return True
    # What every machine awake would cost is no figure of the books: by itself it does not restate a final day.
    ignored = _UNCOMPARED_FIELDS | ({"always_on"} if newest.was_final else frozenset())
    kept = {name: value for name, value in newest.figures.items() if name not in ignored}
    if not _contains(decode(encode(report), dict[str, Any]), kept):
        return True
    before = newest.inputs.sources
    return before is not None and _content(before) != _content(inputs.sources or ())


def next_revision(
    report: DayReport, inputs: RevisionInputs, newest: StoredRevision, change: str, published: int = 0
) -> tuple[DayReport, RevisionInputs]:
    """Return the next revision. After a final one it is a restatement.

    Its number is above the `published` one too: books that were restored from an older copy have lost some.
    """
    was_final = newest.was_final
    state: FigureState | None = "restated" if was_final and report.state is not None else report.state
    number = max(newest.report.revision, published) + 1
    following = msgspec.structs.replace(report, revision=number, state=state, change=change)
    return following, msgspec.structs.replace(inputs, was_final=was_final)


def _content(sources: tuple[SourceCharges, ...]) -> list[tuple[str, str]]:
    return [(charges.source, charges.sha256) for charges in sources]


def _contains(now: object, kept: object) -> bool:
    """Whether everything that was kept is unchanged; there may be more fields, which a newer version has added."""
    if isinstance(kept, dict):
        return isinstance(now, dict) and all(
            name in now and _contains(now[name], value) for name, value in kept.items()
        )
    if isinstance(kept, list):
        return isinstance(now, list) and len(now) == len(kept) and all(map(_contains, now, kept))
    return now == kept
