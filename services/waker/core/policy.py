"""Questions about a fleet that change nothing: who wants what, who is idle, who is next, how long it will take."""

from collections.abc import Iterable
from statistics import median

from services.waker.core.state import PHASES, Fleet, History, Machine, Wanted
from shared.messages.waker import Phase

SETTLE_SECONDS = 2.0
"""After a machine became ready, for its waiters to be served and to say so: older demand starts no second one."""
COOL_SECONDS = 20.0
COOL_LIMIT_SECONDS = 60.0
HISTORY = 20
"""Durations kept of each phase: enough for a median, few enough to follow a change."""


def demands(fleet: Fleet, models: Iterable[str]) -> list[Wanted]:
    """Who waits for any of these models, the longest known first."""
    wanted = set(models)
    return [level for (model, _), level in fleet.demand.items() if model in wanted and level.request.waiting > 0]


def in_flight(fleet: Fleet, machine: str) -> int:
    """Requests on it, as the live gateways say."""
    uses = (heard.activity.machines.get(machine) for heard in fleet.gateways.values())
    return sum(use.in_flight for use in uses if use is not None)


def idle_since(machine: Machine) -> float:
    return max(machine.since, machine.last_used)


def may_drain(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Idle for long enough, wanted by nobody, and we have led for long enough to have heard every gateway."""
    return (
        machine.plan.sleeps
        and now - fleet.leading_since >= fleet.plan.gateway_timeout
        and now - idle_since(machine) >= machine.plan.idle_timeout
        and in_flight(fleet, machine.id) == 0
        and not demands(fleet, machine.plan.models)
    )


def drained(fleet: Fleet, machine: Machine) -> bool:
    """Every live gateway has seen the `draining` record and has nothing in flight there."""
    revision = machine.drain_revision
    if revision is None:
        return False
    uses = [heard.activity.machines.get(machine.id) for heard in fleet.gateways.values()]
    return all(
        use is not None and use.in_flight == 0 and use.acknowledged is not None and use.acknowledged >= revision
        for use in uses
    )


def needs_another(fleet: Fleet, model: str, levels: list[Wanted]) -> bool:
    """Whether demand asks for one more machine: none is on its way, and none that is ready has room."""
    lineup = [fleet.machines[name] for name in fleet.plan.lineups[model]]
    if any(m.state in ("waking", "draining") for m in lineup):
        return False
    ready = [m for m in lineup if m.state == "ready"]
    if any(in_flight(fleet, m.id) < m.plan.room for m in ready):
        return False
    settled = max((m.since for m in ready), default=float("-inf")) + SETTLE_SECONDS
    return any(level.at > settled for level in levels)


def candidate(fleet: Fleet, model: str, wake_id: str, now: float) -> Machine | None:
    """The first machine of the lineup that sleeps and may be tried."""
    for name in fleet.plan.lineups[model]:
        machine = fleet.machines[name]
        if machine.state == "asleep" and now >= machine.cool_until and starts(machine, wake_id) < limit(fleet):
            return machine
    return None


def limit(fleet: Fleet) -> int:
    return fleet.plan.restart_limit


def starts(machine: Machine, wake_id: str | None) -> int:
    """How often this wake has started the machine."""
    return machine.tried[1] if machine.tried[0] == wake_id else 0


def cool_down(failures: int) -> float:
    """Seconds that a machine is left alone after so many failed wakes in a row."""
    return min(COOL_SECONDS * 2.0 ** min(failures - 1, 8), COOL_LIMIT_SECONDS)


def expected(history: History, tier: str, phase: Phase, phase_since: float) -> float | None:
    """When a wake in this phase will be done: the medians of what is still to go; None without history."""
    to_go = PHASES[PHASES.index(phase) :] if phase in PHASES else PHASES
    known = [history.get((tier, p)) for p in to_go]
    if not all(known):
        return None
    return phase_since + sum(median(durations) for durations in known if durations)


def remembered(history: History, tier: str, phase: Phase, seconds: float) -> History:
    durations = (*history.get((tier, phase), ()), max(0.0, seconds))[-HISTORY:]
    return {**history, (tier, phase): durations}
