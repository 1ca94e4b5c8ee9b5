"""When a day's report is a new revision, in which state, and why it differs from the one before."""

import hashlib
from collections.abc import Iterator

import msgspec

from shared.messages.billing import DayReport, FigureState
from shared.messages.meter import TokenSums


class FileInput(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """An imported file. `rows` were delivered with it for one issuer, account and billing period."""

    source: str
    file_name: str
    sha256: str
    rows: int = 0


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
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

    @property
    def digest(self) -> str:
        return sha256(msgspec.structs.replace(self, was_final=False))


def sha256(data: object) -> str:
    """Of its JSON; equal content has equal hashes."""
    return hashlib.sha256(msgspec.json.encode(data, order="deterministic")).hexdigest()


def revised(report: DayReport, inputs: Inputs, newest: tuple[DayReport, Inputs] | None) -> tuple[DayReport, Inputs]:
    """The newest stored one where neither a figure nor an input differs, else the next revision.

    After a final one any other figure, and any other input, is a restatement.
    """
    if newest is None:
        return msgspec.structs.replace(report, revision=1), inputs
    stored, before = newest
    was_final = before.was_final or stored.state == "final"
    numbered = msgspec.structs.replace(report, revision=stored.revision, change=stored.change, state=stored.state)
    same_state = was_final or report.state == stored.state
    if numbered == stored and inputs.digest == before.digest and same_state:
        return newest
    state: FigureState | None = "restated" if was_final and report.state is not None else report.state
    changes = list(_changes(before, inputs))
    if state == "final":
        changes.append("became final")
    if not changes:
        changes = ["computed anew" if inputs.over else "the day went on"]
    following = msgspec.structs.replace(report, revision=stored.revision + 1, state=state, change="; ".join(changes))
    return following, msgspec.structs.replace(inputs, was_final=was_final)


def _changes(before: Inputs, now: Inputs) -> Iterator[str]:
    if (before.files, before.charges) != (now.files, now.charges):
        yield "the bill changed" if before.files else "the bill came"
    elif before.invoices != now.invoices:
        yield "an invoice stands otherwise"
    if _tokens(before) != _tokens(now):
        yield "late usage" if before.over else "more usage"
    if (before.usage_complete, before.usage_reasons) != (now.usage_complete, now.usage_reasons):
        yield "usage is complete" if now.usage_complete else "usage is not complete"
    if before.transitions_sha256 != now.transitions_sha256:
        yield "the journal told more"
    if before.accruals_sha256 != now.accruals_sha256:
        yield "the running bill told more"
    if before.settings_sha256 != now.settings_sha256:
        yield "settings changed"
    if before.over != now.over:
        yield "the day is over"


def _tokens(inputs: Inputs) -> tuple[object, ...]:
    return inputs.served, inputs.failed_tokens, inputs.usage_sha256, inputs.busy_sha256
