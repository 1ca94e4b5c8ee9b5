"""A day's trail from its kept revisions and its cost lines: only what everybody may see of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from services.billing.core.allocation.cost_parts import CostPart
from services.billing.core.money import to_units, to_usd
from services.billing.core.reports.charge_list import Destination, ListedCharge
from services.billing.core.reports.cost_lines import CostLines, Figure, LineTotal
from services.billing.core.revisions.revision import RevisionInputs
from services.billing.core.utc_time import format_time
from shared.messages.billing import CAUSES, DayReport
from shared.messages.explanation import LineKind
from shared.messages.invoices import InvoiceStanding
from shared.messages.trail import (
    ChangeCause,
    Trail,
    TrailBill,
    TrailCategory,
    TrailCharge,
    TrailCost,
    TrailInvoice,
    TrailOwner,
    TrailPart,
    TrailQuery,
    TrailRevision,
    TrailService,
)

MAX_REVISIONS = 50
MAX_INVOICES = 500


class KeptRevision(NamedTuple):
    """A revision as it was kept, with when it was made in Unix seconds."""

    report: DayReport
    inputs: RevisionInputs
    made_at: float


class DayTrace(NamedTuple):
    """A day's report and all that it was made from, read at one moment."""

    report: DayReport
    lines: CostLines
    charges: Sequence[ListedCharge]
    estimates: Mapping[CostPart, int]
    """What no charge covers yet."""
    bills: Sequence[InvoiceStanding]


def build_trail(
    trace: DayTrace, kept: Sequence[KeptRevision], query: TrailQuery, *, sources_left_out: Iterable[str] = ()
) -> Trail:
    """Return the trail of a day. `kept`: its revisions, the newest first, one more than are shown."""
    report = trace.report
    shown = kept[:MAX_REVISIONS]
    before = [*kept[1:], None]
    files = kept[0].inputs.files if kept else ()
    return Trail(
        day=report.day,
        revision=report.revision,
        revisions=tuple(
            TrailRevision(
                revision=one.report.revision,
                at=one.made_at,
                state=one.report.state,
                spend=one.report.spend,
                tokens=one.report.tokens,
                usd_per_mtok=one.report.usd_per_mtok,
                causes=change_causes(earlier.inputs if earlier else None, one.inputs),
            )
            for one, earlier in zip(shown, before, strict=False)
        ),
        more_revisions=len(kept) > len(shown),
        invoices=tuple(TrailInvoice(source=f.source, sha256=f.sha256, rows=f.rows) for f in files[:MAX_INVOICES]),
        costs=tuple(_costs(trace.lines)),
        more_invoices=max(0, len(files) - MAX_INVOICES),
        bills=tuple(map(_bill, trace.bills[:MAX_INVOICES])),
        more_bills=max(0, len(trace.bills) - MAX_INVOICES),
        sources_left_out=tuple(sources_left_out),
        charges=tuple(map(_charge, trace.charges[query.charges_from :][: query.most_charges])),
        all_charges=len(trace.charges),
        estimates=_estimates(trace.estimates),
    )


def change_causes(old: RevisionInputs | None, new: RevisionInputs) -> tuple[ChangeCause, ...]:
    """Return which kinds of input differ between two revisions."""
    if old is None:
        return ("first",)
    old_files, new_files = ({(f.source, f.sha256) for f in inputs.files} for inputs in (old, new))
    has_charges = old_files != new_files if old.sources is None else old.sources != new.sources
    usage = (old.usage_sha256, old.busy_sha256, old.failed_tokens, old.usage_complete)
    pairs: list[tuple[ChangeCause, bool]] = [
        ("charges", has_charges),
        ("estimate", None not in (old.estimate, new.estimate) and old.estimate != new.estimate),
        ("running_bill", old.accruals_sha256 != new.accruals_sha256),
        ("journal", old.transitions_sha256 != new.transitions_sha256),
        ("usage", usage != (new.usage_sha256, new.busy_sha256, new.failed_tokens, new.usage_complete)),
        ("invoices", old.invoices != new.invoices),
        ("day_over", old.over != new.over),
        ("settings", old.settings_sha256 != new.settings_sha256),
    ]
    return tuple(cause for cause, differs in pairs if differs) or ("calculation",)


def _bill(standing: InvoiceStanding) -> TrailBill:
    return TrailBill(
        source=standing.source,
        period_start=standing.period_start,
        period_end=standing.period_end,
        currency=standing.currency,
        billed=standing.billed,
        payable=standing.payable,
        state=standing.state,
    )


def _charge(charge: ListedCharge) -> TrailCharge:
    row = charge.row
    return TrailCharge(
        start=format_time(row.charge_start),
        end=format_time(row.charge_end),
        category=one_of(TrailCategory, row.category),
        service=one_of(TrailService, row.service_category),
        source=charge.origin.source,
        delivery=charge.origin.delivery,
        rows=row.rows,
        billed=to_usd(to_units(row.billed)),
        currency=row.currency,
        per_usd=row.per_usd,
        amount=to_usd(charge.amount),
        parts=_parts(charge.parts),
    )


def _estimates(estimates: Mapping[CostPart, int]) -> tuple[TrailPart, ...]:
    sums: Counter[Destination] = Counter()
    for part, amount in estimates.items():
        sums[part.tier, part.cause] += amount
    return _parts(sums)


def _parts(parts: Mapping[Destination, int]) -> tuple[TrailPart, ...]:
    ordered = sorted(parts, key=lambda where: (where[0] or "", CAUSES.index(where[1])))
    return tuple(TrailPart(tier=tier, cause=cause, amount=to_usd(parts[tier, cause])) for tier, cause in ordered)


def one_of(words: Any, word: str | None) -> Any:
    """Return the word if it is one of these; a text from outside may name anything."""
    return word if word in get_args(words) else None


def _costs(lines: CostLines) -> Iterator[TrailCost]:
    sums: dict[tuple[Figure, LineKind, str | None, TrailCategory | None], LineTotal] = {}
    for figure, totals in lines.by_figure.items():
        for label, line_total in totals.items():
            category = one_of(TrailCategory, label.category)
            summed = sums.setdefault((figure, label.what, label.source, category), LineTotal())
            summed.amount += line_total.amount
            summed.charges += line_total.charges
    for key in sorted(sums, key=lambda key: (key[0].is_tier, *(part or "" for part in (key[0].name, *key[1:])))):
        figure, what, source, category = key
        owner: TrailOwner = "tier" if figure.is_tier else "shared" if figure.name == "shared" else "unattributed"
        yield TrailCost(
            owner=owner,
            tier=figure.name if figure.is_tier else None,
            what=what,
            source=source,
            category=category,
            charges=sums[key].charges,
            amount=to_usd(sums[key].amount),
        )
