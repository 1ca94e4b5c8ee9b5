"""Why a day's report differs from the revision before: which figure moved, by how much, and because of what."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from services.billing.core.revisions.charge_digest import SourceCharges
from services.billing.core.revisions.figure_changes import (
    MAX_LISTED,
    changed_parts,
    format_change,
    format_signed,
    shorten_name,
)
from services.billing.core.revisions.revision import HASH_PREFIX, RevisionInputs, StoredRevision
from shared.messages.billing import DayReport

MAX_LENGTH = 600
"""Characters of a reason."""
ROUNDING = Decimal("1e-9")
"""Conversions of currencies may differ by so much between a sum and its parts."""


class _Cause(NamedTuple):
    text: str
    amount: Decimal | None = None
    """What it moved the figure by, in USD; None where that is not known."""


def change_reason(report: DayReport, inputs: RevisionInputs, newest: StoredRevision) -> str:
    """Say what moved between the newest revision and this report."""
    text = "; ".join(_clauses(newest.report, newest.inputs, report, inputs))
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"


def _clauses(before: DayReport, old: RevisionInputs, after: DayReport, new: RevisionInputs) -> Iterator[str]:
    moves = False
    if before.spend != after.spend:
        moves = True
        move = format_change(before.spend, after.spend, before.spend_known, after.spend_known)
        yield f"spend {move}: {_format_causes(_spend_causes(before, old, after, new))}"
    if before.tax != after.tax:
        moves = True
        causes = [*_charge_causes(old, new, lambda charges: charges.tax)] or [*_other_causes(old, new)]
        yield f"tax {format_change(before.tax, after.tax)}: {_format_causes(causes)}"
    if before.tokens != after.tokens:
        moves = True
        count = after.tokens - before.tokens
        yield f"tokens {before.tokens:,} → {after.tokens:,} ({count:+,}): {_usage_cause(old)}"
    state = _state_clause(before, old, after, new)
    if state is not None:
        yield state
    completes = before.usage_complete != after.usage_complete and after.state != "final"
    if completes:
        yield _completeness(after)
    if moves:
        return
    causes = [*_charge_causes(old, new, lambda charges: charges.spend), *_other_causes(old, new)]
    parts = changed_parts(before, after)
    if parts:
        yield f"{', '.join(parts)}: {_format_causes(causes)}"
    elif state is None and not completes:
        yield f"no figure moved: {_format_causes(causes)}"


def _spend_causes(before: DayReport, old: RevisionInputs, after: DayReport, new: RevisionInputs) -> list[_Cause]:
    """Every cause with its amount; together they are all that the spend moved by."""
    causes = [*_charge_causes(old, new, lambda charges: charges.spend), *_estimate_cause(old, new, after)]
    if after.spend is None and after.reason:
        causes.append(_Cause(shorten_name(after.reason)))
    whole = _known_spend(after) - _known_spend(before)
    known = [cause.amount for cause in causes if cause.amount is not None]
    if old.sources is None or abs(whole - sum(known)) > ROUNDING:
        causes += _other_causes(old, new, is_explained=bool(causes))
    return causes


def _known_spend(report: DayReport) -> Decimal:
    return next((amount for amount in (report.spend, report.spend_known) if amount is not None), Decimal(0))


def _charge_causes(
    old: RevisionInputs, new: RevisionInputs, amount: Callable[[SourceCharges], Decimal]
) -> Iterator[_Cause]:
    """The sources whose charges of the day are others than before."""
    if old.sources is None:
        yield from _file_causes(old, new)
        return
    before = {charges.source: charges for charges in old.sources}
    after = {charges.source: charges for charges in new.sources or ()}
    for source in sorted({*before, *after}):
        was, now = before.get(source), after.get(source)
        if was is not None and now is not None and was.sha256 == now.sha256:
            continue
        rows = (0 if now is None else now.rows) - (0 if was is None else was.rows)
        more = (Decimal(0) if now is None else amount(now)) - (Decimal(0) if was is None else amount(was))
        details = ", ".join([_format_rows(rows), *([format_signed(more)] if more else [])])
        yield _Cause(f"charges of source {shorten_name(source)}, {_origin(source, old, new)} ({details})", more)


def _file_causes(old: RevisionInputs, new: RevisionInputs) -> Iterator[_Cause]:
    """The same by the files alone, where an older version did not keep what the charges were."""
    changed = sorted({source for source, _ in _hashes(old) ^ _hashes(new)})
    rows = new.charges - old.charges
    for source in changed:
        details = f" ({_format_rows(rows)})" if len(changed) == 1 else ""
        yield _Cause(f"charges of source {shorten_name(source)}, {_origin(source, old, new)}{details}")
    if not changed and rows:
        yield _Cause(f"charges ({_format_rows(rows)})")


def _origin(source: str, old: RevisionInputs, new: RevisionInputs) -> str:
    """Return which files the changed charges came with, or else why the same files say something else."""
    files = _new_files(source, old, new)
    voided, restored = _invoices(old, new, "voided", source), _invoices(new, old, "voided", source)
    origins = [
        f"{_invoice_names(numbers)} {how}"
        for numbers, how in ((voided, "voided"), (restored, "no longer voided"))
        if numbers
    ]
    # All charges of an invoice may come back with it, and with them a file that was there before.
    if files and not restored:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        origins.insert(0, f"file {shorten_name(files[0])}{more}")
    if origins:
        return ", ".join(origins)
    changed = [name for name in ("machine list", "exchange rates") if old.settings.get(name) != new.settings.get(name)]
    if changed and old.settings:
        return f"files read again as {' and '.join(changed)} changed"
    return "no longer counted" if source not in {file.source for file in new.files} else "files read by a newer reader"


def _hashes(inputs: RevisionInputs) -> set[tuple[str, str]]:
    return {(file.source, file.sha256) for file in inputs.files}


def _new_files(source: str, old: RevisionInputs, new: RevisionInputs) -> list[str]:
    known = _hashes(old)
    return [file.file_name for file in new.files if file.source == source and (source, file.sha256) not in known]


def _estimate_cause(old: RevisionInputs, new: RevisionInputs, after: DayReport) -> Iterator[_Cause]:
    if old.estimate is None or new.estimate is None or old.estimate == new.estimate:
        return
    more = new.estimate - old.estimate
    prices = [text for name, text in _changed_settings(old, new) if name.startswith("price")]
    if prices:
        text = f"estimate by {', '.join(prices)}"
    elif not old.over:
        text = "estimate of machine hours"
    elif more < 0 and (old.sources != new.sources or _hashes(old) != _hashes(new)):
        text = "estimate replaced by charges"
    elif _differs(old.accruals_sha256, new.accruals_sha256):
        text = "the provider's running bill"
    elif _differs(old.transitions_sha256, new.transitions_sha256):
        text = "estimate of machine hours, which the journal tells otherwise"
    elif after.state == "final":
        text = "no estimate beside invoices that tie"
    else:
        text = "estimate of machine hours"
    yield _Cause(f"{text} ({format_signed(more)})", more)


def _other_causes(old: RevisionInputs, new: RevisionInputs, *, is_explained: bool = False) -> Iterator[_Cause]:
    """What changed besides the charges. With no input changed it was the calculation."""
    causes = [text for _, text in _changed_settings(old, new)]
    if _differs(old.accruals_sha256, new.accruals_sha256):
        causes.append("the provider's running bill")
    if _differs(old.transitions_sha256, new.transitions_sha256):
        causes.append("the journal of machine states")
    usage_differs = _differs(old.usage_sha256, new.usage_sha256) or _differs(old.busy_sha256, new.busy_sha256)
    if usage_differs or old.failed_tokens != new.failed_tokens:
        causes.append(_usage_cause(old))
    if old.over != new.over:
        causes.append("the day is over")
    if not causes and not old.over:
        causes.append("the day went on")
    has_charges = old.sources is not None and old.sources != new.sources
    if not causes and not has_charges and not is_explained:
        same_files = old.sources is None and _hashes(old) == _hashes(new)
        causes.append(f"{'read and ' if same_files else ''}calculated by a newer version of billing")
    yield from map(_Cause, causes)


def _changed_settings(old: RevisionInputs, new: RevisionInputs) -> list[tuple[str, str]]:
    """Names of settings, each with how it changed."""
    if not old.settings:
        return [("settings", "settings changed")] if _differs(old.settings_sha256, new.settings_sha256) else []
    changes = []
    for name in sorted({*old.settings, *new.settings}):
        before, after = old.settings.get(name), new.settings.get(name)
        if before != after:
            is_hash = (before or after or "").startswith(HASH_PREFIX)
            how = "changed" if is_hash else f"{before or 'none'} → {after or 'none'}"
            changes.append((name, f"{name} {how}"))
    return changes


def _state_clause(before: DayReport, old: RevisionInputs, after: DayReport, new: RevisionInputs) -> str | None:
    """Explain a change of state until the day is final; after that, the figures that moved explain it."""
    if before.state == after.state or before.state in ("final", "restated") or old.was_final:
        return None
    move = f"state {before.state or 'unknown'} → {after.state or 'unknown'}"
    if after.state == "final":
        causes = []
        ties = _invoices(old, new, "ties")
        if ties:
            causes.append(f"{_invoice_names(ties)} {'ties' if len(ties) == 1 else 'tie'}")
        if not old.usage_complete and new.usage_complete:
            causes.append("usage is complete")
        return f"{move}: {', '.join(causes) or 'the billing period is over'}"
    if after.state == "provisional" and before.state == "estimated":
        return f"{move}: charges cover all of it"
    if after.state == "estimated" and before.state == "provisional":
        return f"{move}: {after.reason if after.spend is None and after.reason else 'a part of it is estimated'}"
    return move if after.state is not None else f"{move}: {after.reason}"


def _completeness(after: DayReport) -> str:
    if after.usage_complete:
        return "usage is complete"
    why = f": {shorten_name(after.usage_reasons[0])}" if after.usage_reasons else ""
    return f"usage is not complete{why}"


def _invoices(old: RevisionInputs, new: RevisionInputs, state: str, source: str | None = None) -> list[str]:
    """The invoices that have this standing now and had another one."""
    had = {(s, issuer, number) for s, issuer, number, was in old.invoices if was == state}
    return [
        number
        for s, issuer, number, now in new.invoices
        if now == state and (s, issuer, number) not in had and source in (None, s)
    ]


def _invoice_names(numbers: Sequence[str]) -> str:
    """Charges that name no invoice have an empty number."""
    names = [shorten_name(number) for number in numbers if number]
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    invoices = (
        [f"{'invoice' if len(names) == 1 else 'invoices'} {', '.join(names[:MAX_LISTED])}{more}"] if names else []
    )
    return " and ".join([*invoices, *(["what names no invoice"] if len(names) < len(numbers) else [])])


def _differs(old: str, new: str) -> bool:
    """Whether a hash changed. An older version may have kept none."""
    return bool(old) and old != new


def _usage_cause(old: RevisionInputs) -> str:
    return "late usage" if old.over else "more usage"


def _format_rows(count: int) -> str:
    if not count:
        return "rows changed"
    return f"{abs(count):,} {'row' if abs(count) == 1 else 'rows'} {'added' if count > 0 else 'removed'}"


def _format_causes(causes: Iterable[_Cause]) -> str:
    """The largest first, those without an amount last."""
    ordered = sorted(causes, key=lambda cause: (cause.amount is None, -abs(cause.amount or Decimal(0))))
    rest = ordered[MAX_LISTED:]
    texts = [cause.text for cause in ordered[:MAX_LISTED]]
    if rest:
        amount = sum((cause.amount or Decimal(0) for cause in rest), Decimal(0))
        texts.append(f"and {len(rest)} more{f' ({format_signed(amount)})' if amount else ''}")
    return ", ".join(texts)
