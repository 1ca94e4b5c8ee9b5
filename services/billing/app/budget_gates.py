"""Keeps the budget gates: compares today's spend with each daily limit every few seconds, and obeys the operator.

The bucket is the only record. An order is part of its gate, so the next leader finds it, and a leader never overwrites
what another one has written since.
"""

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal
from hashlib import blake2b

import structlog

from services.billing.app.day_reports import DayReports
from services.billing.app.running_bill import RunningBillPoller
from services.billing.core.budget_gate import GateRules, apply_order, evaluate_gate, gate_change
from services.billing.core.money import to_usd
from services.billing.core.reports.day_report import report_state
from services.billing.metrics import Metrics
from shared import budget_gates
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.bus.reply import reply
from shared.config.sections import Config
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable, Conflict, Rejected
from shared.messages.budget import BudgetGate, GateOrder, Gates, GatesQuery
from shared.messages.codec import Unreadable, decode, encode
from shared.units import DAY_S

log = structlog.get_logger()

TRIES = 3
"""Another leader may write at the same time, until its lease ends."""
CATCH_UP_SECONDS = 0.1
CATCH_UP_TRIES = 100
"""Ten seconds for the journal in each update; after that the spend counts as unknown."""
AFTER_MIDNIGHT = 0.5
"""Seconds. By then the day has begun for every machine whose state is known."""


class BudgetGates:
    """The gates during one term as the leader."""

    def __init__(
        self,
        bus: Bus,
        reports: DayReports,
        running_bill: RunningBillPoller | None,
        config: Config,
        metrics: Metrics,
        *,
        now: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._reports = reports
        self._running_bill = running_bill
        self._metrics = metrics
        self._now = now
        self._limits = {scope: Decimal(limit) for scope, limit in budget_gates.budget_limits(config).items()}
        """Plain decimals, as messages carry them."""
        self._rules = GateRules(
            warning=Decimal(config.billing.budget_warning), open_when_dark=config.billing.when_dark == "open"
        )
        self._observation_timeout_s = config.billing.observation_timeout
        self._tier_of = {machine.id: machine.tier for machine in config.machine}
        self._metered = frozenset(tier.name for tier in config.tier if tier.traits.has_running_bill)
        self._unpriced: frozenset[str] = frozenset()
        self._gates: dict[str, tuple[BudgetGate, int]] | None = None
        """As they are in the bucket, with their revisions; None: to be read."""
        self._caught_up = False
        self._spend_error: str | None = None
        """Why the spend is unknown; None: it is known."""
        self._is_database_away = False
        self._lock = asyncio.Lock()

    @property
    def has_limits(self) -> bool:
        """Whether there is any gate."""
        return bool(self._limits)

    def pause(self, most: float) -> float:
        """Seconds until the next look is due: a new day opens what the old one closed."""
        return min(most, DAY_S - self._now() % DAY_S + AFTER_MIDNIGHT)

    async def update(self) -> str | None:
        """Write every gate as it is now. A gate whose spend is unknown is judged by that.

        While the database is away, a gate stays as it was last observed for `observation_timeout`: a failover takes a
        minute, and would otherwise stop every request. Gateways measure that time too.

        Returns why the spend is unknown. Raises `BusUnavailable`, or the error of one gate after the others are
        written.
        """
        caught_up = await self._catch_up()
        faults: list[Exception] = []
        async with self._lock:
            spends = await self._spends() if caught_up else dict.fromkeys(self._limits)
            for scope in self._limits:
                try:
                    if not (self._is_database_away and await self._is_recent(scope)):
                        await self._put(scope, spends[scope])
                except Exception as error:  # noqa: BLE001 - each gate by itself; it is raised below
                    faults.append(error)
        if faults:
            try:
                raise faults[0]
            finally:
                faults.clear()  # the error's traceback has this frame, and would keep it and itself
        return self._spend_error if caught_up else "the journal has not been read to its end"

    async def answer(self, data: bytes) -> bytes:
        """Answer a `GateOrder` or a `GatesQuery`."""
        return await reply(data, _request_type(data), self._answer, if_too_large="configure fewer daily budgets")

    async def _answer(self, request: GateOrder | GatesQuery) -> Gates:
        if isinstance(request, GateOrder):
            await self._order(request)
        return Gates(gates={scope: gate for scope, (gate, _) in (await self._read_gates()).items()})

    async def _catch_up(self) -> bool:
        """Return whether the journal has been read in this term. A part of it would show too little spend."""
        for _ in range(CATCH_UP_TRIES):
            if self._caught_up:
                break
            self._caught_up = not await self._bus.backlog(topology.BOOKS)
            if not self._caught_up:
                await asyncio.sleep(CATCH_UP_SECONDS)
        return self._caught_up

    async def _order(self, order: GateOrder) -> None:
        if order.scope not in self._limits:
            known = ", ".join(self._limits) or "none"
            raise Rejected(f"scope: {order.scope!r} has no daily_budget, so it has no gate; there are: {known}")
        if not order.reason.strip():
            raise Rejected("reason: must not be empty: the journal records it")
        async with self._lock:  # without waiting for the journal: closing a gate must not wait
            await self._put(order.scope, (await self._spends())[order.scope], order)

    async def _spends(self) -> Mapping[str, Decimal | None]:
        """Return today's spend in USD by scope; None where it is unknown."""
        self._is_database_away = False
        try:
            allocation = await self._reports.allocate_today()
            unobserved = (
                frozenset()
                if self._running_bill is None
                else await self._running_bill.unobserved_machines(self._observation_timeout_s)
            )
        except DATABASE_ERRORS as error:
            log.warning("spend_unavailable", reason=describe(error))
            self._is_database_away = True
            self._spend_error = f"no spend is known: {describe(error)}"
            return dict.fromkeys(self._limits)
        except Exception as error:
            # Whatever made it fail, the gates must be judged without the spend.
            log.exception("spend_failed")
            self._spend_error = f"no spend is known: {describe(error)}"
            return dict.fromkeys(self._limits)
        self._spend_error = None
        dark = {self._tier_of[machine] for machine in unobserved}
        # Of a tier with a running bill `unobserved_machines` says whether its cost is known.
        unpriced = allocation.uncertain - self._metered
        if unpriced - self._unpriced:
            log.warning(
                "spend_unknown", tiers=sorted(unpriced), reason="neither price_per_hour nor a bill of these hours"
            )
        self._unpriced = unpriced
        priced = report_state(allocation) is not None
        known: dict[str, Decimal | None] = {budget_gates.FLEET_SCOPE: None}
        if not dark and not unpriced and (priced or self._metered):
            known[budget_gates.FLEET_SCOPE] = to_usd(max(allocation.spend, sum(allocation.estimates.values())))
        for tier in self._tier_of.values():
            seen = tier not in dark and (priced or tier in self._metered)
            spend = max(allocation.tiers.get(tier, 0), allocation.estimates.get(tier, 0))
            known[budget_gates.tier_scope(tier)] = to_usd(spend) if seen else None
        return {scope: known.get(scope, Decimal(0)) for scope in self._limits}

    async def _is_recent(self, scope: str) -> bool:
        """Whether the gate was observed less than `observation_timeout` ago."""
        gate, _ = (await self._read_gates()).get(scope, (None, 0))
        return gate is not None and gate.observed and abs(self._now() - gate.observed_at) <= self._observation_timeout_s

    async def _put(self, scope: str, spend: Decimal | None, order: GateOrder | None = None) -> None:
        for _ in range(TRIES):
            known = await self._read_gates()
            before, revision = known.get(scope, (None, 0))
            base = before
            if order is not None:
                base = apply_order(before or self._judged(scope, spend, None), order, self._now())
            gate = self._judged(scope, spend, base)
            await self._journal_turn(scope, before, revision, gate, order)
            try:
                known[scope] = gate, await self._write(subjects.budget_key(scope), encode(gate), revision)
            except Conflict:
                self._gates = None
                continue
            self._metrics.gate(scope, gate)  # at once; the view on the bus shows it everywhere
            return
        raise BusUnavailable(f"another process keeps writing the budget gate {scope}")

    def _judged(self, scope: str, spend: Decimal | None, before: BudgetGate | None) -> BudgetGate:
        return evaluate_gate(spend, self._limits[scope], self._now(), rules=self._rules, before=before)

    async def _journal_turn(
        self, scope: str, before: BudgetGate | None, revision: int, gate: BudgetGate, order: GateOrder | None
    ) -> None:
        """Journal the change before the gate changes. Repeating an interrupted change adds no second entry."""
        entry = gate_change(scope, before, gate, order)
        if entry is None:
            return
        turn = f"{scope}/{revision}/{entry.open}/{entry.reason}/{entry.warning}/{entry.by}/{entry.why}"
        message_id = f"gate-{blake2b(turn.encode(), digest_size=16).hexdigest()}"
        await self._bus.publish(subjects.budget_journal(scope), encode(entry), message_id=message_id)
        log.warning("budget_gate_turned", scope=scope, open=gate.open, reason=gate.reason, spend=str(entry.spend))

    async def _write(self, key: str, value: bytes, revision: int) -> int:
        if revision:
            return await self._bus.update(topology.BUDGET, key, value, revision=revision)
        return await self._bus.create(topology.BUDGET, key, value)

    async def _read_gates(self) -> dict[str, tuple[BudgetGate, int]]:
        if self._gates is None:
            entries = await self._bus.entries(topology.BUDGET)
            self._gates = {
                scope: (_gate(entry.value, limit), entry.revision)
                for scope, limit in self._limits.items()
                if (entry := entries.get(subjects.budget_key(scope))) is not None
            }
        return self._gates


def _request_type(data: bytes) -> type[GateOrder] | type[GatesQuery]:
    try:
        decode(data, GatesQuery)
    except Unreadable:
        return GateOrder
    return GatesQuery


def _gate(data: bytes, limit: Decimal) -> BudgetGate:
    """Decode a gate. An unreadable one counts as never observed."""
    try:
        return decode(data, BudgetGate)
    except Unreadable as error:
        log.error("budget_gate_unreadable", error=str(error))
        return BudgetGate(open=False, reason="", spend=Decimal(0), limit=limit, observed_at=0.0)
