"""How a new leader takes the fleet over: from the records, the memories, and what the providers report."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from services.waker.core.engine_checks import Probing
from services.waker.core.events import Effect, Forget, Journal, Observed, Remember, Write
from services.waker.core.fleet import handle
from services.waker.core.fleet_spec import FleetSpec, MachineSpec
from services.waker.core.history import TierHistory
from services.waker.core.key_wakes import account_of
from services.waker.core.machine import (
    UNREADY,
    Backoff,
    Calls,
    Machine,
    OperatorIntent,
    PendingCharge,
    StartLog,
    StopAttempts,
    WakeAttempt,
)
from services.waker.core.policy import COOL_DOWN_LIMIT_S
from services.waker.core.removals import settle
from services.waker.core.state import Fleet, ProviderHealth, Wake
from services.waker.core.unready import backoff_s
from shared.config.providers import ProviderName
from shared.messages.waker import REMOVED, KeyWakes, MachineMemory, MachineRecord, TierMemory, WakeMemory


@dataclass(frozen=True, kw_only=True)
class PersistedState:
    """What earlier leaders left in the bus's buckets."""

    records: Mapping[str, tuple[MachineRecord, int]] = field(default_factory=dict)
    """By machine, with revisions."""
    removed: Mapping[str, MachineRecord] = field(default_factory=dict)
    """The records of machines that are not configured."""
    newer: tuple[str, ...] = ()
    """Other machines that are not configured, but are in a newer configuration, whose waker has led."""
    machines: Mapping[str, MachineMemory] = field(default_factory=dict)
    tiers: Mapping[str, TierMemory] = field(default_factory=dict)
    operator_wakes: tuple[str, ...] = ()
    """Models that the operator wants awake."""
    wakes: Mapping[str, WakeMemory] = field(default_factory=dict)
    """By model."""
    keys: Mapping[str, KeyWakes] = field(default_factory=dict)
    """By key id."""


def adopt(
    spec: FleetSpec,
    persisted: PersistedState,
    observed: Mapping[ProviderName, Observed],
    now: float,
    *,
    closed: frozenset[str],
) -> tuple[Fleet, list[Effect]]:
    """The fleet that a new leader begins with, and the effects of taking it over.

    Args:
        observed: by provider; a machine that none of them shows is where its record left it.
        closed: the tiers whose budget gate is closed.
    """
    machines = {m.id: _restore(m, persisted, spec, now) for m in spec.machines.values()}
    removals = settle(persisted.removed, now)
    fleet = Fleet(
        spec=spec,
        leading_since=now,
        machines=machines,
        provider_health={provider: ProviderHealth() for provider in spec.providers},
        operator_wakes=tuple(model for model in persisted.operator_wakes if model in spec.lineups),
        wakes=_wakes(spec, persisted, machines, now),
        history={tier: _history(persisted, tier) for tier in spec.idle},
        closed=closed,
        keys={key: account_of(message, now) for key, message in persisted.keys.items()},
        removed=removals.remembered,
        is_outdated=bool(persisted.newer),
    )
    consequences: list[Effect] = []
    for event in observed.values():
        fleet, effects = handle(fleet, event, now)
        consequences += [effect for effect in effects if not isinstance(effect, Write | Remember)]
    journal = [effect for effect in consequences if isinstance(effect, Journal)]
    rest = [effect for effect in consequences if not isinstance(effect, Journal)]
    return fleet, [*removals.journal, *journal, *removals.writes, *_rewrites(fleet, persisted.records), *rest]


def _rewrites(fleet: Fleet, records: Collection[str]) -> list[Effect]:
    """Write everything anew, changed or not: a later write of an earlier leader then fails on its revision.

    The record of a machine that was reconfigured, and has not been observed since, is deleted.
    """
    machines = fleet.machines
    writes: list[Effect] = [Write(record) for m in machines.values() if (record := m.record()) is not None]
    writes += [Forget(m.id) for m in machines.values() if m.state is None and m.id in records]
    writes += [Remember(m.memory()) for m in machines.values() if m.spec.configured]
    writes += [Remember(history.memory(tier)) for tier, history in fleet.history.items() if history != TierHistory()]
    writes += [Remember(fleet.operator_wakes_memory()), Remember(fleet.wakes_memory())]
    return writes + [Remember(fleet.key_message(key)) for key in fleet.keys]


def _wakes(spec: FleetSpec, persisted: PersistedState, machines: Mapping[str, Machine], now: float) -> dict[str, Wake]:
    """The wakes under way, which go on with their deadlines, keys and starts.

    The previous leader's clock may have been ahead of ours.
    """
    wakes = {
        model: Wake(wake.id, min(wake.deadline, now + spec.wake_cap_s), wake.keys)
        for model, wake in persisted.wakes.items()
        if model in spec.lineups
    }
    for model, lineup in spec.lineups.items():
        for machine in (machines[name] for name in lineup):
            if machine.attempt is not None and machine.wake_id and model not in wakes:
                keys = () if machine.charge is None else machine.charge.keys
                wakes[model] = Wake(machine.wake_id, machine.attempt.deadline, keys)
    return wakes


def _history(persisted: PersistedState, tier: str) -> TierHistory:
    memory = persisted.tiers.get(tier)
    return TierHistory() if memory is None else TierHistory(phases=memory.phases, wakes=memory.wakes, gaps=memory.gaps)


def _restore(machine_spec: MachineSpec, persisted: PersistedState, spec: FleetSpec, now: float) -> Machine:
    """A machine as its memory and its record have it. Our clock may have been set back since they were written."""
    memory = persisted.machines.get(machine_spec.id, MachineMemory(machine=machine_spec.id))
    pause_limit_s = max(backoff_s(memory.unready), COOL_DOWN_LIMIT_S)
    machine = Machine(
        spec=machine_spec,
        endpoint=machine_spec.endpoint,
        since=now,
        last_used_at=min(memory.last_used, now),
        operator=OperatorIntent(keep_awake=memory.kept and machine_spec.sleeps, is_cordoned=memory.cordoned),
        backoff=Backoff(
            failed_wakes=memory.failures,
            until=min(memory.cool_until, now + pause_limit_s),
            unready_wakes=memory.unready,
            unready_reason=memory.unready_reason,
        ),
        starts=StartLog(
            by_wake=memory.tried or ({memory.tried_wake: memory.tried_starts} if memory.tried_wake else {}),
            wakes_at=tuple(at for at in memory.woken if at <= now),
        ),
    )
    if machine_spec.id not in persisted.records:
        return machine
    record, revision = persisted.records[machine_spec.id]
    machine = replace(machine, generation=record.generation)
    if not fits(machine_spec, record):
        return machine
    return _resume(machine, record, revision, memory, spec)


def fits(spec: MachineSpec, record: MachineRecord) -> bool:
    """Whether the record is about the machine as it is configured now. One that was removed meanwhile begins anew."""
    if record.alarm_reason == REMOVED:
        return False
    if spec.sleeps:
        return record.tier == spec.tier
    return record.tier == spec.tier and (record.state == "broken" or record.endpoint == spec.endpoint)


def _resume(machine: Machine, record: MachineRecord, revision: int, memory: MachineMemory, spec: FleetSpec) -> Machine:
    """Put the machine where its record left it. The previous leader's clock may have been ahead of ours."""
    now = machine.since
    since = min(record.since, now)
    attempt: WakeAttempt | None = None
    calls = Calls()
    if record.state == "waking":
        deadline = min(memory.wake_deadline or since + spec.wake_cap_s, now + spec.wake_cap_s)
        attempt = WakeAttempt(deadline=deadline, phase="calling", phase_since=now, ready_at=None)
        if spec.observation_policy(machine.spec).settle_s:
            # A call may be invisible for a moment: an observation made too soon proves nothing.
            calls = Calls(ended_at=now)
    if record.state in ("ready", "draining"):
        # Memories are written after the record, and the leader may have died between the two.
        machine = replace(machine, backoff=replace(machine.backoff, unready_wakes=0, unready_reason=""))
    return replace(
        machine,
        state=record.state,
        since=since,
        reason=record.reason,
        max_model_len=record.max_model_len,
        alarm="" if record.alarm.startswith(UNREADY) else record.alarm,
        endpoint=machine.endpoint or record.endpoint,  # only the record knows the endpoint of a local command
        wake_id=record.wake_id,
        key_id=record.key_id,
        charge=PendingCharge(memory.causes, min(memory.charged_since, now)) if memory.causes else None,
        attempt=attempt,
        calls=calls,
        drain_revision=revision if record.state == "draining" else None,
        probe=Probing(is_reachable=not machine.spec.sleeps and record.state == "ready"),
        stop=StopAttempts() if record.state == "falling_asleep" else None,
    )
