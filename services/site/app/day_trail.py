"""One day: its figures as published, and where they come from as far as billing answers."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal

import msgspec

from services.site.app.report_view import ReportView, rfc3339
from shared.bus import subjects
from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.errors import BusUnavailable, Rejected
from shared.messages.explanation import LineKind
from shared.messages.meter_audit import Audit
from shared.messages.public import PublicDay, PublishedDay
from shared.messages.trail import Trail, TrailQuery
from shared.report_forms.charts import Bar, cause_bars

TRAIL_TIMEOUT_S = 10.0
FIRST_CHARGES = 20
"""Of the largest amounts, on the day's own page; the others are on pages of their own."""
COLUMNS = ("day", "owner", "tier", "what", "source", "category", "charges", "amount_usd")


class DayCount(msgspec.Struct, frozen=True, kw_only=True):
    """The meter's audit, all machines together: tokens as the engines and as the ledger counted them."""

    as_of: str
    final: bool
    engines: int | None
    """None: an engine's count is not known."""
    probes: int
    ledger: int
    difference: int | None
    missing_events: int
    machines_by_state: dict[str, int]


class DayTrail(msgspec.Struct, frozen=True, kw_only=True):
    """What `/economics/<day>` shows, and its JSON."""

    as_of: str
    figures: PublicDay
    count: DayCount | None
    trail: Trail | None
    """None: billing does not answer now."""
    day_before: str | None
    """None: it is not published."""
    day_after: str | None

    @property
    def bars(self) -> list[Bar]:
        return cause_bars(self.figures.causes)

    @property
    def charged(self) -> Decimal:
        """USD of all charges without tax."""
        return self._sum("charges")

    @property
    def estimated(self) -> Decimal:
        """USD of what no charge covers yet."""
        return self._sum("estimate")

    def _sum(self, what: LineKind) -> Decimal:
        costs = self.trail.costs if self.trail else ()
        return sum((cost.amount for cost in costs if cost.what == what), Decimal(0))

    @property
    def revision_times(self) -> list[str]:
        return [rfc3339(one.at) for one in self.trail.revisions] if self.trail else []


class DayTrails:
    """Published days and their trails. Nobody makes billing work on a day without figures."""

    def __init__(self, bus: Bus, reports: ReportView) -> None:
        self._bus = bus
        self._reports = reports

    def published(self, day: str) -> PublishedDay | None:
        return self._reports.day(day)

    def audit(self, day: str) -> Audit | None:
        return self._reports.audit(day)

    async def trail(self, day: str, *, charges_from: int = 0, most_charges: int) -> Trail | None:
        """Ask billing for a published day's trail; None: it does not answer now."""
        query = TrailQuery(day=day, charges_from=charges_from, most_charges=most_charges)
        try:
            return await request_reply(
                self._bus, subjects.BILLING_TRAIL, query, Trail, timeout=TRAIL_TIMEOUT_S, patience_s=0.0
            )
        except (Rejected, BusUnavailable):
            return None


class DayTrailPage:
    """Loads one published day. Another day is no page."""

    def __init__(self, trails: DayTrails) -> None:
        self._trails = trails

    async def load(self, variables: Mapping[str, str]) -> DayTrail | None:
        published = self._trails.published(variables["day"])
        if published is None:
            return None
        audit = self._trails.audit(published.figures.day)
        return DayTrail(
            as_of=rfc3339(published.at),
            figures=published.figures,
            count=None if audit is None else day_count(audit),
            trail=await self._trails.trail(published.figures.day, most_charges=FIRST_CHARGES),
            day_before=self._neighbour(published.figures.day, -1),
            day_after=self._neighbour(published.figures.day, 1),
        )

    def _neighbour(self, day: str, days: int) -> str | None:
        other = (date.fromisoformat(day) + timedelta(days=days)).isoformat()
        return None if self._trails.published(other) is None else other


def day_count(audit: Audit) -> DayCount:
    """Return the sums of an audit; it names machines, gateways and causes in words, which stay in it."""
    engines = [machine.engine for machine in audit.machines]
    differences = [machine.difference for machine in audit.machines]
    states = [machine.state for machine in audit.machines]
    return DayCount(
        as_of=rfc3339(audit.at),
        final=audit.final,
        engines=None if None in engines else sum(count for count in engines if count is not None),
        probes=sum(machine.probes for machine in audit.machines),
        ledger=sum(machine.read for machine in audit.machines),
        difference=None if None in differences else sum(count for count in differences if count is not None),
        missing_events=sum(source.missing for source in audit.sources),
        machines_by_state={str(state): states.count(state) for state in sorted(set(states))},
    )


def trail_rows(page: DayTrail) -> Iterator[Sequence[object]]:
    """Where the charges of the day went."""
    yield COLUMNS
    for cost in page.trail.costs if page.trail else ():
        yield page.figures.day, cost.owner, cost.tier, cost.what, cost.source, cost.category, cost.charges, cost.amount
