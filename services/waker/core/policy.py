"""Questions about a fleet, which change nothing: who wants what, what is idle, what is started next."""

from collections.abc import Iterable

from services.waker.core.history import TierHistory
from services.waker.core.idle import is_scheduled, sleep_at, wake_at
from services.waker.core.key_wakes import KeyAccount
from services.waker.core.machine import Machine
from services.waker.core.state import DemandLevel, Fleet, ProviderHealth
from shared.messages.gateway import WakeCause

SETTLE_S = 2.0
"""A machine that became ready has this long to serve its waiting requests: older demand starts no second machine."""
COOL_DOWN_S = 20.0
COOL_DOWN_LIMIT_S = 60.0
MISSED_OBSERVATIONS = 3
"""A provider that could not be observed this many times in a row is in doubt."""


def demand_for(fleet: Fleet, models: Iterable[str]) -> list[DemandLevel]:
    """The demand for any of these models, longest waiting first."""
    names = set(models)
    return [
        level
        for (model, _), level in fleet.demand.items()
        if model in names and level.request.waiting > 0 and _is_entitled(fleet, level)
    ]


def _is_entitled(fleet: Fleet, level: DemandLevel) -> bool:
    """Whether any waiting key may cause a wake, or caused the one under way. Older gateways name no keys."""
    causes = level.request.causes
    return not causes or any(_may_cause(fleet, level.request.model, cause) for cause in causes)


def _may_cause(fleet: Fleet, model: str, cause: WakeCause) -> bool:
    wake = fleet.wakes.get(model)
    if wake is not None and cause.key_id in wake.keys:
        return True
    return fleet.keys.get(cause.key_id, KeyAccount()).allows(cause)


def keys_of(fleet: Fleet, levels: Iterable[DemandLevel]) -> tuple[str, ...]:
    """The keys that cause the wake for this demand, in the order in which they are served."""
    keys: list[str] = []
    for level in levels:
        request = level.request
        keys += [cause.key_id for cause in request.causes if _may_cause(fleet, request.model, cause)]
        if not request.causes and request.key_id:
            keys.append(request.key_id)
    return tuple(dict.fromkeys(keys))


def lineup(fleet: Fleet, model: str) -> list[Machine]:
    """The model's machines, without those of closed tiers: no request goes there even if they are awake."""
    machines = (fleet.machines[name] for name in fleet.spec.lineups[model])
    return [machine for machine in machines if machine.spec.tier not in fleet.closed]


def has_demand(fleet: Fleet, machine: Machine) -> bool:
    """Whether requests wait for one of the machine's models, or the operator wants it awake."""
    if machine.spec.tier in fleet.closed:
        return False
    models = machine.spec.models
    return bool(demand_for(fleet, models)) or any(model in fleet.operator_wakes for model in models)


def in_flight(fleet: Fleet, machine: str) -> int:
    """Requests on the machine, as the live gateways report."""
    uses = (report.activity.machines.get(machine) for report in fleet.gateways.values())
    return sum(use.in_flight for use in uses if use is not None)


def is_released(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Whether no gateway reports requests on the machine. A new leader has not heard of them all yet."""
    return now - fleet.leading_since >= fleet.spec.gateway_timeout_s and in_flight(fleet, machine.id) == 0


def may_drain(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Whether the machine has been idle for long enough, nobody wants it, and nothing is in doubt.

    Every gateway has reported, its provider can be observed, and what is stopped can be started again.
    """
    # The time first: whether it is unused takes a look at every gateway's report.
    if now < may_sleep_at(fleet, machine) or not is_unused(fleet, machine, now):
        return False
    return not is_kept_warm(fleet, machine, now)


def is_unused(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Whether it is certain that nobody uses, wants or keeps the machine."""
    return (
        machine.spec.sleeps
        and not machine.operator.keep_awake
        and is_released(fleet, machine, now)
        and is_provider_healthy(fleet, machine, now)
        and not has_demand(fleet, machine)
    )


def may_sleep_at(fleet: Fleet, machine: Machine) -> float:
    """When its idle policy puts the machine to sleep if nobody uses it."""
    past = fleet.history.get(machine.spec.tier, TierHistory()).past()
    return sleep_at(
        fleet.spec.idle[machine.spec.tier],
        past,
        ready_since=machine.since,
        idle_since=machine.idle_since,
        wakes_at=machine.starts.wakes_at,
        is_unused=machine.charge is not None,
    )


def is_provider_healthy(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Whether the machine's provider can be observed and passed its self-test."""
    health = fleet.provider_health.get(machine.spec.provider, ProviderHealth())
    patience_s = MISSED_OBSERVATIONS * fleet.spec.observation_policy(machine.spec).observe_every_s + 10.0
    return health.passed_test and health.observe_error is None and now - health.observed_at <= patience_s


def observe_error(fleet: Fleet, machine: Machine) -> str | None:
    """Why the last observation of the machine's provider failed; None if it succeeded."""
    return fleet.provider_health.get(machine.spec.provider, ProviderHealth()).observe_error


def is_kept_warm(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Whether a schedule wants one machine of the tier awake, and this is the first one that is."""
    tier = machine.spec.tier
    if tier in fleet.closed or not is_scheduled(fleet.spec.idle[tier], now):
        return False
    return first_ready(fleet, tier) == machine.id


def first_ready(fleet: Fleet, tier: str) -> str | None:
    machines = fleet.machines.values()
    ready = (m.id for m in machines if m.spec.tier == tier and m.state == "ready" and not m.is_leaving)
    return next(ready, None)


def needs_warm_machine(fleet: Fleet, tier: str, now: float) -> bool:
    """Whether a schedule or the pattern of past gaps wants a machine of this tier awake, and none is or will be."""
    machines = [m for m in fleet.machines.values() if m.spec.tier == tier and m.spec.sleeps and m.spec.models]
    if not machines or any(m.state in ("ready", "waking", "draining", None) for m in machines):
        return False
    settings = fleet.spec.idle[tier]
    if is_scheduled(settings, now):
        return True
    past = fleet.history.get(tier, TierHistory()).past()
    idle_since, asleep_since = max(m.last_used_at for m in machines), max(m.since for m in machines)
    if not idle_since:
        return False
    at = wake_at(settings, past, idle_since=idle_since, asleep_since=asleep_since)
    return at is not None and asleep_since <= at <= now < at + settings.timeout


def is_revivable(fleet: Fleet, machine: Machine) -> bool:
    """Whether a machine that would not stop is up: it is billed, so it might as well serve."""
    is_up = machine.observation is not None and machine.observation.power == "running"
    is_remote = fleet.spec.observation_policy(machine.spec).is_remote
    return machine.is_stuck and is_up and not machine.is_leaving and is_remote


def is_drained(fleet: Fleet, machine: Machine, now: float) -> bool:
    """Whether every live gateway has seen the `draining` record and has nothing in flight on the machine.

    A new leader does not know yet which gateways are alive.
    """
    revision = machine.drain_revision
    if revision is None or now - fleet.leading_since < fleet.spec.gateway_timeout_s:
        return False
    uses = [report.activity.machines.get(machine.id) for report in fleet.gateways.values()]
    return all(
        use is not None and use.in_flight == 0 and use.acknowledged is not None and use.acknowledged >= revision
        for use in uses
    )


def needs_another(fleet: Fleet, model: str, levels: list[DemandLevel]) -> bool:
    """Whether demand calls for one more machine: none is on its way, and no ready one has room."""
    machines = lineup(fleet, model)
    if any(m.state == "waking" or (m.state == "draining" and not m.is_leaving) for m in machines):
        return False
    if any(is_revivable(fleet, m) and not m.probe.failures for m in machines):
        return False  # its engine is being probed
    ready = [m for m in machines if m.state == "ready" and not m.is_leaving]
    if any(in_flight(fleet, m.id) < m.spec.room for m in ready):
        return False
    if not ready and model in fleet.operator_wakes:
        return True
    settled_at = max((m.since for m in ready), default=float("-inf")) + SETTLE_S
    return any(level.at > settled_at for level in levels)


def candidates(fleet: Fleet, names: Iterable[str], wake_id: str, now: float) -> list[Machine]:
    """The machines that this wake may start now, best first, whether or not their pairs allow it.

    Untried machines come before tried ones. While an untried one is merely paused after a refusal, which lasts a
    minute at most, the tried ones wait for it.
    """
    machines = [fleet.machines[name] for name in names]
    startable = [machine for machine in machines if may_start(fleet, machine, wake_id, now)]
    untried = [machine for machine in startable if wake_id not in machine.starts.by_wake]
    if untried or any(is_paused(fleet, m, wake_id, now) for m in machines if wake_id not in m.starts.by_wake):
        return untried
    return sorted(startable, key=lambda machine: starts(machine, wake_id))


def candidate(fleet: Fleet, names: Iterable[str], wake_id: str, now: float) -> Machine | None:
    """The machine that this wake starts next; None: none for now."""
    return next((m for m in candidates(fleet, names, wake_id, now) if not _is_blocked(fleet, m)), None)


def has_untried(fleet: Fleet, wake_id: str, names: Iterable[str], now: float) -> bool:
    """Whether the wake has an untried machine that it may start now or within a minute."""
    machines = [fleet.machines[name] for name in names if wake_id not in fleet.machines[name].starts.by_wake]
    return any(
        is_paused(fleet, m, wake_id, now) or (may_start(fleet, m, wake_id, now) and not _is_blocked(fleet, m))
        for m in machines
    )


def is_paused(fleet: Fleet, machine: Machine, wake_id: str, now: float) -> bool:
    """Whether nothing but a refusal that ends within a minute prevents a start."""
    until = machine.backoff.until
    is_pause = not machine.backoff.unready_wakes and now < until <= now + COOL_DOWN_LIMIT_S
    return is_pause and may_start(fleet, machine, wake_id, until)


def _is_blocked(fleet: Fleet, machine: Machine) -> bool:
    return any(_may_hold_gpus(mate) for mate in pair_mates(fleet, machine))


def pair_mates(fleet: Fleet, machine: Machine) -> list[Machine]:
    """The machines that share its GPUs."""
    pair = machine.spec.pair
    return [m for m in fleet.machines.values() if pair and m.spec.pair == pair and m.id != machine.id]


def _may_hold_gpus(machine: Machine) -> bool:
    is_active = machine.observation is not None and machine.observation.is_active
    return machine.state not in ("asleep", "gone") or is_active


def blocking_mate(fleet: Fleet, names: Iterable[str], wake_id: str, now: float) -> Machine | None:
    """The first ready machine that keeps its mate from starting and may sleep at once.

    Its idle policy does not matter, except for `min_awake`.
    """
    for machine in candidates(fleet, names, wake_id, now):
        for mate in pair_mates(fleet, machine):
            has_rested = now >= mate.since + fleet.spec.idle[mate.spec.tier].min_awake
            if mate.state == "ready" and has_rested and is_unused(fleet, mate, now):
                return mate
    return None


def may_start(fleet: Fleet, machine: Machine, wake_id: str, now: float) -> bool:
    """Whether the wake may start the machine, as far as the machine itself is concerned."""
    observation = machine.observation
    return (
        machine.state == "asleep"
        and not machine.operator.is_cordoned
        and machine.spec.tier not in fleet.closed
        and now >= machine.backoff.until
        and starts(machine, wake_id) < fleet.spec.restart_limit
        and (
            observation is None
            or (observation.power in ("stopped", "stopped_billed", "error") and not observation.locked)
        )
    )


def starts(machine: Machine, wake_id: str | None) -> int:
    """How often this wake has started the machine."""
    return machine.starts.by_wake.get(wake_id or "", 0)


def oldest_wake_s(fleet: Fleet, now: float) -> float:
    """Seconds since the oldest wake under way began; 0 if none is."""
    deadlines = [wake.deadline for wake in fleet.wakes.values()]
    deadlines += [m.attempt.deadline for m in fleet.machines.values() if m.attempt is not None]
    return max((now - deadline + fleet.spec.wake_cap_s for deadline in deadlines), default=0.0)


def is_hedge_due(fleet: Fleet, machine: Machine, deadline: float, now: float) -> bool:
    """Whether the next machine must start now to be ready before the deadline."""
    usual_s = fleet.history.get(machine.spec.tier, TierHistory()).slow_wake_s()
    needed_s = fleet.spec.wake_cap_s / 2 if usual_s is None else usual_s
    return deadline - now < needed_s + fleet.spec.hedge_margin_s


def cool_down_s(failures: int) -> float:
    """Seconds for which a machine is left alone after this many failed wakes in a row."""
    return min(COOL_DOWN_S * 2.0 ** min(failures - 1, 8), COOL_DOWN_LIMIT_S)
