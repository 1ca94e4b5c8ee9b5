"""How a waker that has just become the leader takes over: what is on record, what was remembered, what is seen."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from services.waker.core.events import Effect, Journal, Observed, Remember, Write
from services.waker.core.fleet import handle
from services.waker.core.fleet_spec import FleetSpec, MachineSpec
from services.waker.core.history import History, remembered
from services.waker.core.key_wakes import account_of
from services.waker.core.policy import COOL_LIMIT_SECONDS
from services.waker.core.state import UNREADY, Fleet, Machine, ProviderHealth, Wake
from services.waker.core.unready import backoff
from shared.messages.waker import KeyWakes, MachineMemory, MachineRecord, TierMemory, WakeMemory


@dataclass(frozen=True, kw_only=True)
class PersistedState:
    """What earlier leaders left in the bus's buckets."""

    records: Mapping[str, tuple[MachineRecord, int]] = field(default_factory=dict)
    """By machine, with revisions."""
    machines: Mapping[str, MachineMemory] = field(default_factory=dict)
    tiers: Mapping[str, TierMemory] = field(default_factory=dict)
    orders: tuple[str, ...] = ()
    wakes: Mapping[str, WakeMemory] = field(default_factory=dict)
    """By model."""
    keys: Mapping[str, KeyWakes] = field(default_factory=dict)
    """By key id."""


def adopt(
    spec: FleetSpec, left: PersistedState, snapshot: Mapping[str, Observed], now: float, *, closed: frozenset[str]
) -> tuple[Fleet, list[Effect]]:
    """The fleet to begin with. `snapshot` by provider; a machine that none of them shows is where its record left it.

    `closed`: the tiers whose budget gate is.
    """
    recalled = {m.id: _recalled(m, left, spec, now) for m in spec.machines.values()}
    fleet = Fleet(
        spec=spec,
        leading_since=now,
        machines=recalled,
        provider_health={provider: ProviderHealth() for provider in spec.providers},
        orders=tuple(model for model in left.orders if model in spec.lineups),
        wakes=_wakes(spec, left, recalled, now),
        history={tier: _history(left, tier) for tier in spec.idle},
        closed=closed,
        keys={key: account_of(message, now) for key, message in left.keys.items()},
    )
    told: list[Effect] = []
    for looked in snapshot.values():
        fleet, effects = handle(fleet, looked, now)
        told += [effect for effect in effects if not isinstance(effect, Write | Remember)]
    # All of it anew, said otherwise or not: what an earlier leader still writes meets another revision and is refused.
    machines = fleet.machines
    writes: list[Effect] = [Write(record) for m in machines.values() if (record := m.record()) is not None]
    writes += [Remember(m.memory()) for m in machines.values() if m.spec.configured]
    writes += [Remember(history.memory(tier)) for tier, history in fleet.history.items() if history != History()]
    writes += [Remember(fleet.orders_memory()), Remember(fleet.wakes_memory())]
    writes += [Remember(fleet.key_message(key)) for key in fleet.keys]
    journal = [effect for effect in told if isinstance(effect, Journal)]
    rest = [effect for effect in told if not isinstance(effect, Journal)]
    return fleet, [*journal, *writes, *rest]


def _wakes(spec: FleetSpec, left: PersistedState, machines: Mapping[str, Machine], now: float) -> dict[str, Wake]:
    """The attempts under way, so that they go on with the deadline, the keys and the starts that they had.

    The clock of the one who wrote them may have been ahead of ours.
    """
    wakes = {
        model: Wake(wake.id, min(wake.deadline, now + spec.wake_cap), wake.keys)
        for model, wake in left.wakes.items()
        if model in spec.lineups
    }
    for model, lineup in spec.lineups.items():
        for name in lineup:
            machine = machines[name]
            if machine.state == "waking" and machine.wake_id and model not in wakes:
                wakes[model] = Wake(machine.wake_id, machine.deadline, machine.causes)
    return wakes


def _history(left: PersistedState, tier: str) -> History:
    memory = left.tiers.get(tier)
    return remembered(memory) if memory else History()


def _recalled(spec: MachineSpec, left: PersistedState, whole: FleetSpec, now: float) -> Machine:
    kept = left.machines.get(spec.id, MachineMemory(machine=spec.id))
    machine = Machine(
        spec=spec,
        endpoint=spec.endpoint,
        since=now,
        kept=kept.kept and spec.sleeps,
        cordoned=kept.cordoned,
        # The clock may have been set back since.
        last_used=min(kept.last_used, now),
        cool_until=min(kept.cool_until, now + max(backoff(kept.unready), COOL_LIMIT_SECONDS)),
        failures=kept.failures,
        unready=kept.unready,
        unready_reason=kept.unready_reason,
        tried=kept.tried or ({kept.tried_wake: kept.tried_starts} if kept.tried_wake else {}),
        woken=tuple(at for at in kept.woken if at <= now),
        causes=kept.causes,
        charged_since=min(kept.charged_since, now),
    )
    known = left.records.get(spec.id)
    if known is None:
        return machine
    record, revision = known
    machine = replace(machine, generation=record.generation)
    if not _fits(spec, record):
        return machine
    return _resumed(machine, record, revision, kept, whole)


def _fits(spec: MachineSpec, record: MachineRecord) -> bool:
    """Whether the record is about the machine as it is configured now."""
    if spec.sleeps:
        return record.tier == spec.tier
    return record.tier == spec.tier and (record.state == "broken" or record.endpoint == spec.endpoint)


def _resumed(machine: Machine, record: MachineRecord, revision: int, kept: MachineMemory, spec: FleetSpec) -> Machine:
    """Where the record left it. The clock of the one who wrote it may have been ahead of ours."""
    now = machine.since
    since = min(record.since, now)
    waking = record.state == "waking"
    if record.state in ("ready", "draining"):
        # What is remembered is written after the record, and its writer may have died between the two.
        machine = replace(machine, unready=0, unready_reason="")
    deadline = min(kept.wake_deadline or since + spec.wake_cap, now + spec.wake_cap)
    return replace(
        machine,
        state=record.state,
        since=since,
        reason=record.reason,
        max_model_len=record.max_model_len,
        alarm="" if record.alarm.startswith(UNREADY) else record.alarm,
        endpoint=machine.endpoint or record.endpoint,  # the record has that of a local command alone
        wake_id=record.wake_id,
        key_id=record.key_id,
        deadline=deadline if waking else 0.0,
        phase="calling" if waking else None,
        phase_since=now if waking else 0.0,
        # What was called may be invisible for a moment: what is seen too soon proves nothing.
        called_at=now if waking and spec.observation_policy(machine.spec).settle else 0.0,
        drain_revision=revision if record.state == "draining" else None,
        reached=not machine.spec.sleeps and record.state == "ready",
    )
