"""Questions about a fleet that change nothing: who wants what, who is idle, who is next."""

from collections.abc import Iterable

from services.waker.core.history import History
from services.waker.core.idle import sleep_at, wake_at, warm
from services.waker.core.key_wakes import KeyAccount
from services.waker.core.state import DemandLevel, Fleet, Machine, ProviderHealth
from shared.messages.gateway import WakeCause

SETTLE_SECONDS = 2.0
"""After a machine became ready, for its waiters to be served and to say so: older demand starts no second one."""
COOL_SECONDS = 20.0
COOL_LIMIT_SECONDS = 60.0
DOUBT_LOOKS = 3
"""A provider that was not seen for so many looks is in doubt."""


def demands(fleet: Fleet, models: Iterable[str]) -> list[DemandLevel]:
    """Who waits for any of these models, the longest known first."""
    wanted = set(models)
    return [
        level
        for (model, _), level in fleet.demand.items()
        if model in wanted and level.request.waiting > 0 and _is_entitled(fleet, level)
    ]


def _is_entitled(fleet: Fleet, level: DemandLevel) -> bool:
    """Whether any of those who wait may cause a wake, or caused the one under way. Older gateways name nobody."""
    causes = level.request.causes
    return not causes or any(_may_cause(fleet, level.request.model, cause) for cause in causes)


def _may_cause(fleet: Fleet, model: str, cause: WakeCause) -> bool:
    wake = fleet.wakes.get(model)
    if wake is not None and cause.key_id in wake.keys:
        return True
    return fleet.keys.get(cause.key_id, KeyAccount()).allows(cause)


def keys_of(fleet: Fleet, levels: Iterable[DemandLevel]) -> tuple[str, ...]:
    """The keys that cause a wake which these levels lead to, in the order of their turns."""
    keys: list[str] = []
    for level in levels:
        request = level.request
        keys += [cause.key_id for cause in request.causes if _may_cause(fleet, request.model, cause)]
        if not request.causes and request.key_id:
            keys.append(request.key_id)
    return tuple(dict.fromkeys(keys))


def lineup(fleet: Fleet, model: str) -> list[Machine]:
    """The model's machines but for those of closed tiers: no request goes there, however awake they are."""
    machines = (fleet.machines[name] for name in fleet.spec.lineups[model])
    return [machine for machine in machines if machine.spec.tier not in fleet.closed]


def wanted(fleet: Fleet, machine: Machine) -> bool:
    """Somebody waits for one of its models, or the operator does."""
    if machine.spec.tier in fleet.closed:
        return False
    return bool(demands(fleet, machine.spec.models)) or any(model in fleet.orders for model in machine.spec.models)


def in_flight(fleet: Fleet, machine: str) -> int:
    """Requests on it, as the live gateways say."""
    uses = (heard.activity.machines.get(machine) for heard in fleet.gateways.values())
    return sum(use.in_flight for use in uses if use is not None)


def may_drain(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Idle for long enough, wanted by nobody, and nothing is in doubt: we have heard every gateway, see its provider,
    and know that what we stop we can start again."""
    return unused(fleet, machine, now) and now >= may_sleep_at(fleet, machine) and not kept_warm(fleet, machine, now)


def unused(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Nobody has it, wants it or keeps it, and that is certain."""
    return (
        machine.spec.sleeps
        and not machine.kept
        and now - fleet.leading_since >= fleet.spec.gateway_timeout
        and trusted(fleet, machine, now)
        and in_flight(fleet, machine.id) == 0
        and not wanted(fleet, machine)
    )


def may_sleep_at(fleet: Fleet, machine: Machine) -> float:
    """When its idle policy puts it to sleep if nobody uses it."""
    past = fleet.history.get(machine.spec.tier, History()).past()
    return sleep_at(
        fleet.spec.idle[machine.spec.tier],
        past,
        ready_since=machine.since,
        idle_since=machine.idle_since,
        woken=machine.woken,
        is_unused=bool(machine.causes),
    )


def trusted(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Its provider answers and passed its self-test."""
    account = fleet.provider_health.get(machine.spec.provider, ProviderHealth())
    patience = DOUBT_LOOKS * fleet.spec.observation_policy(machine.spec).observe_every_s + 10.0
    return account.tested and not unseen(fleet, machine) and now - account.looked_at <= patience


def unseen(fleet: Fleet, machine: Machine) -> str:
    """Why its provider could not be looked at when that was tried last; empty: it could."""
    return fleet.provider_health.get(machine.spec.provider, ProviderHealth()).fault


def kept_warm(fleet: Fleet, machine: Machine, now: float) -> bool:
    """A schedule wants one machine of its tier awake, and it is the first that is."""
    tier = machine.spec.tier
    return tier not in fleet.closed and warm(fleet.spec.idle[tier], now) and first_ready(fleet, tier) == machine.id


def first_ready(fleet: Fleet, tier: str) -> str | None:
    ready = (m.id for m in fleet.machines.values() if m.spec.tier == tier and m.state == "ready" and not m.lost)
    return next(ready, None)


def to_be_warm(fleet: Fleet, tier: str, now: float) -> bool:
    """A schedule or the pattern of past gaps wants a machine of this tier that is awake, and none is or will be."""
    machines = [m for m in fleet.machines.values() if m.spec.tier == tier and m.spec.sleeps and m.spec.models]
    if not machines or any(m.state in ("ready", "waking", "draining", None) for m in machines):
        return False
    spec = fleet.spec.idle[tier]
    if warm(spec, now):
        return True
    past = fleet.history.get(tier, History()).past()
    idle_since, asleep_since = max(m.last_used for m in machines), max(m.since for m in machines)
    if not idle_since:
        return False
    at = wake_at(spec, past, idle_since=idle_since, asleep_since=asleep_since)
    return at is not None and asleep_since <= at <= now < at + spec.timeout


def revivable(fleet: Fleet, machine: Machine) -> bool:
    """It should sleep, cannot be put to sleep, and is there all the same: it bills, and might as well serve."""
    up = machine.observation is not None and machine.observation.power == "running"
    stuck = machine.state == "broken" and machine.stops > 0
    return stuck and up and not machine.lost and fleet.spec.observation_policy(machine.spec).reachable


def drained(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Every live gateway has seen the `draining` record and has nothing in flight there. A new leader has yet to hear
    who is alive."""
    revision = machine.drain_revision
    if revision is None or now - fleet.leading_since < fleet.spec.gateway_timeout:
        return False
    uses = [heard.activity.machines.get(machine.id) for heard in fleet.gateways.values()]
    return all(
        use is not None and use.in_flight == 0 and use.acknowledged is not None and use.acknowledged >= revision
        for use in uses
    )


def needs_another(fleet: Fleet, model: str, levels: list[DemandLevel]) -> bool:
    """Whether demand asks for one more machine: none is on its way, and none that is ready has room."""
    machines = lineup(fleet, model)
    if any(m.state == "waking" or (m.state == "draining" and not m.lost) for m in machines):
        return False
    if any(revivable(fleet, m) and not m.probe_failures for m in machines):
        return False  # its engine is being asked
    ready = [m for m in machines if m.state == "ready" and not m.lost]
    if any(in_flight(fleet, m.id) < m.spec.room for m in ready):
        return False
    if not ready and model in fleet.orders:
        return True
    settled = max((m.since for m in ready), default=float("-inf")) + SETTLE_SECONDS
    return any(level.at > settled for level in levels)


def candidates(fleet: Fleet, names: Iterable[str], wake_id: str, now: float) -> list[Machine]:
    """The machines that this wake may start now but for their pairs, the best first.

    Untried machines come before tried ones. While an untried one is only left alone after a refusal, which lasts a
    minute at most, the tried ones wait for it.
    """
    machines = [fleet.machines[name] for name in names]
    may = [machine for machine in machines if may_start(fleet, machine, wake_id, now)]
    untried = [machine for machine in may if wake_id not in machine.tried]
    if untried or any(is_paused(fleet, m, wake_id, now) for m in machines if wake_id not in m.tried):
        return untried
    return sorted(may, key=lambda machine: starts(machine, wake_id))


def candidate(fleet: Fleet, names: Iterable[str], wake_id: str, now: float) -> Machine | None:
    """The machine that this wake is to start next; None: none for now."""
    return next((m for m in candidates(fleet, names, wake_id, now) if not _is_blocked(fleet, m)), None)


def has_untried(fleet: Fleet, wake_id: str, names: Iterable[str], now: float) -> bool:
    """Whether the wake has a machine that it has not tried and may try now or within a minute."""
    machines = [fleet.machines[name] for name in names if wake_id not in fleet.machines[name].tried]
    return any(
        is_paused(fleet, m, wake_id, now) or (may_start(fleet, m, wake_id, now) and not _is_blocked(fleet, m))
        for m in machines
    )


def is_paused(fleet: Fleet, machine: Machine, wake_id: str, now: float) -> bool:
    """Nothing stands against a start but a refusal that is less than a minute old."""
    until = machine.cool_until
    return not machine.unready and now < until <= now + COOL_LIMIT_SECONDS and may_start(fleet, machine, wake_id, until)


def _is_blocked(fleet: Fleet, machine: Machine) -> bool:
    return any(_at_gpus(mate) for mate in mates(fleet, machine))


def mates(fleet: Fleet, machine: Machine) -> list[Machine]:
    """Those that share its GPUs."""
    pair = machine.spec.pair
    return [m for m in fleet.machines.values() if pair and m.spec.pair == pair and m.id != machine.id]


def _at_gpus(machine: Machine) -> bool:
    """It has them, or may have them still."""
    return machine.state not in ("asleep", "gone") or (machine.observation is not None and machine.observation.running)


def in_the_way(fleet: Fleet, names: Iterable[str], wake_id: str, now: float) -> Machine | None:
    """Of machines that could be started but for their pairs: the first one's mate that may sleep at once, whatever
    its idle policy says but for `min_awake`."""
    for machine in candidates(fleet, names, wake_id, now):
        for mate in mates(fleet, machine):
            rested = now >= mate.since + fleet.spec.idle[mate.spec.tier].min_awake
            if mate.state == "ready" and rested and unused(fleet, mate, now):
                return mate
    return None


def may_start(fleet: Fleet, machine: Machine, wake_id: str, now: float) -> bool:
    """Whatever its pair does."""
    observation = machine.observation
    return (
        machine.state == "asleep"
        and not machine.cordoned
        and machine.spec.tier not in fleet.closed
        and now >= machine.cool_until
        and starts(machine, wake_id) < fleet.spec.restart_limit
        and (
            observation is None
            or (observation.power in ("stopped", "stopped_billed", "error") and not observation.locked)
        )
    )


def starts(machine: Machine, wake_id: str | None) -> int:
    """How often this wake has started the machine."""
    return machine.tried.get(wake_id or "", 0)


def hedge_due(fleet: Fleet, candidate: Machine, deadline: float, now: float) -> bool:
    """Whether the next machine has to begin now to be ready before the deadline."""
    usual = fleet.history.get(candidate.spec.tier, History()).usual_most()
    needed = fleet.spec.wake_cap / 2 if usual is None else usual
    return deadline - now < needed + fleet.spec.hedge_margin


def cool_down(failures: int) -> float:
    """Seconds that a machine is left alone after so many failed wakes in a row."""
    return min(COOL_SECONDS * 2.0 ** min(failures - 1, 8), COOL_LIMIT_SECONDS)
