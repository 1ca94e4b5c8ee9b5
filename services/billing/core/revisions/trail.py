"""A day's trail from its kept revisions and its cost lines: only what everybody may see of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

from services.billing.core.money import to_usd
from services.billing.core.reports.cost_lines import CostLines, Figure, LineTotal
from services.billing.core.revisions.revision import RevisionInputs
from shared.messages.billing import DayReport
from shared.messages.explanation import LineKind
from shared.messages.trail import ChangeCause, Trail, TrailCategory, TrailCost, TrailInvoice, TrailOwner, TrailRevision

MAX_REVISIONS = 50
MAX_INVOICES = 500


class KeptRevision(NamedTuple):
    """A revision as it was kept, with when it was made in Unix seconds."""

    report: DayReport
    inputs: RevisionInputs
    made_at: float


def build_trail(report: DayReport, kept: Sequence[KeptRevision], lines: CostLines) -> Trail:
    """Return the trail of the report. `kept`: its revisions, the newest first, one more than are shown."""
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
        costs=tuple(_costs(lines)),
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


def _costs(lines: CostLines) -> Iterator[TrailCost]:
    sums: dict[tuple[Figure, LineKind, str | None, str | None], LineTotal] = {}
    for figure, totals in lines.by_figure.items():
        for label, line_total in totals.items():
            category = label.category if label.category in get_args(TrailCategory) else None
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
            category=category,  # type: ignore[arg-type]  # one of them, or None
            charges=sums[key].charges,
            amount=to_usd(sums[key].amount),
        )
