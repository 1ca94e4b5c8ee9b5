"""What holds of every fleet after every step. The docstrings are the sentences of `docs/reference/fleet-states.md`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.waker.core.events import Command, Effect, Event, Journal, RequestsCounted, StartMachine, StopMachine
from services.waker.core.machine import Call, Machine
from services.waker.core.policy import demand_for, starts
from services.waker.core.state import Fleet, ProviderHealth
from services.waker.core.transitions import is_legal
from shared.messages.waker import (
    JournalEntry,
    MachineRecord,
    MachineState,
    Memory,
    OperatorWakesMemory,
    ProviderCall,
    Transition,
)

STOPS = 3
HEDGED = 2


@dataclass(frozen=True)
class HandledEvent:
    """One event and what it led to."""

    before: Fleet
    event: Event
    after: Fleet
    effects: Sequence[Effect]
    now: float

    @property
    def moves(self) -> Iterator[tuple[Machine, Transition]]:
        """With the machine as it is now."""
        for effect in self.effects:
            if isinstance(effect, Journal) and isinstance(effect.entry, Transition):
                yield self.after.machines[effect.entry.machine], effect.entry

    def call_before(self, name: str) -> Call | None:
        machine = self.before.machines.get(name)
        return machine.calls.pending if machine else None


class FleetRun(Protocol):
    """A fleet that has lived for a while, and what is in the buckets."""

    fleet: Fleet
    bucket: dict[str, tuple[MachineRecord, int]]
    memory: dict[str, Memory]
    journal: list[JournalEntry]
    journal_before: tuple[int, dict[str, MachineState]]
    """How much of the journal is by earlier leaders, and where the records left the machines."""
    turned_at: float
    """When a budget gate turned last."""


def phase_while_waking(step: HandledEvent) -> None:
    """A machine has a phase exactly while it is `waking`."""
    for m in step.after.machines.values():
        assert (m.phase is not None) == (m.state == "waking"), m


def few_starts(step: HandledEvent) -> None:
    """A machine is started at most `restart_limit` times in one wake."""
    for m in step.after.machines.values():
        assert 0 <= starts(m, m.wake_id) <= step.after.spec.restart_limit, m


def few_stops(step: HandledEvent) -> None:
    """A machine gets at most 3 stop calls per `falling_asleep`, not counting those that met a change of state."""
    for m in step.after.machines.values():
        assert m.stop is None or m.stop.count <= STOPS, m


def ready_can_be_reached(step: HandledEvent) -> None:
    """A machine that is `ready` has an endpoint, and gateways see an endpoint only while it is ready or draining."""
    for m in step.after.machines.values():
        assert m.state != "ready" or m.endpoint is not None, m
        record = m.record()
        assert record is None or record.endpoint is None or m.state in ("ready", "draining"), record


def call_in_its_state(step: HandledEvent) -> None:
    """A call is in progress only in its state: a stop while `falling_asleep`, a start while `waking`, or a start whose
    outcome is still unknown after the machine was sent to sleep."""
    for m in step.after.machines.values():
        if m.calls.pending is None:
            continue
        if m.calls.pending.kind == "start":
            assert m.state == "waking" or (m.state == "falling_asleep" and _stops(m) == 0), m
        else:
            assert (m.state, _stops(m) > 0) == ("falling_asleep", True), m


def calls_fit_the_state(step: HandledEvent) -> None:
    """Only a machine that is `waking` is started, and only one that is `falling_asleep` is stopped."""
    for effect in step.effects:
        if isinstance(effect, StartMachine):
            assert step.after.machines[effect.machine].state == "waking", effect
        elif isinstance(effect, StopMachine):
            assert step.after.machines[effect.machine].state == "falling_asleep", effect


def one_call_at_a_time(step: HandledEvent) -> None:
    """A machine has one call in progress at a time, start or stop: the next begins once the outcome of the previous one
    is on record, even if it is `unknown`."""
    journalled = {
        (e.entry.machine, e.entry.call)
        for e in step.effects
        if isinstance(e, Journal) and isinstance(e.entry, ProviderCall)
    }
    calls = [e.machine for e in step.effects if isinstance(e, StartMachine | StopMachine)]
    assert len(calls) == len(set(calls)), calls
    for name in calls:
        before = step.call_before(name)
        assert before is None or (name, before.kind) in journalled, f"{name}: another call, and {before} is under way"


def cordoned_is_not_used(step: HandledEvent) -> None:
    """A cordoned machine is never `ready`, and no wake begins with it."""
    for m in step.after.machines.values():
        assert not (m.operator.is_cordoned and m.state == "ready"), m
    for m, move in step.moves:
        begun = move.from_state == "asleep" and move.to_state == "waking" and "is adopted" not in move.reason
        assert not (begun and m.operator.is_cordoned), move


def closed_is_not_woken(step: HandledEvent) -> None:
    """No machine of a tier with a closed budget gate is woken."""
    for m, move in step.moves:
        if move.from_state == "asleep" and move.to_state == "waking" and "is adopted" not in move.reason:
            assert m.spec.tier not in step.after.closed, move


def locked_is_not_woken(step: HandledEvent) -> None:
    """A machine that its provider does not let us start is not woken."""
    for m, move in step.moves:
        if move.from_state == "asleep" and move.to_state == "waking" and m.observation is not None:
            assert not m.observation.locked or m.observation.is_active, move


def backoff_holds(step: HandledEvent) -> None:
    """After a failed wake a machine is not woken again before its backoff is over."""
    for m, move in step.moves:
        if move.from_state == "asleep" and move.to_state == "waking" and "is adopted" not in move.reason:
            assert m.backoff.until <= step.now, m


def unready_raises_an_alarm(step: HandledEvent) -> None:
    """A machine whose engine did not become ready in two or more wakes in a row has an alarm."""
    for m in step.after.machines.values():
        record = m.record()
        assert record is None or m.backoff.unready_wakes < 2 or record.alarm, m
        assert m.state != "ready" or not m.backoff.unready_wakes, m


def one_of_a_pair(step: HandledEvent) -> None:
    """Of machines that share GPUs, at most one is waking, ready or draining, and none is woken before the others are
    asleep."""
    machines = step.after.machines.values()
    awake = [m.spec.pair for m in machines if m.spec.pair and m.state in ("waking", "ready", "draining")]
    assert len(awake) == len(set(awake)), awake
    for m, move in step.moves:
        if (
            m.spec.pair
            and move.from_state == "asleep"
            and move.to_state == "waking"
            and "is adopted" not in move.reason
        ):
            others = [o for o in machines if o.spec.pair == m.spec.pair and o.id != m.id]
            assert all(o.state == "asleep" for o in others), (move, others)


def idle_is_certain(step: HandledEvent) -> None:
    """Neither idleness nor its pair drains a machine that the operator keeps awake, that has a request in flight, whose
    provider is in doubt (not observed lately, or not tested), or that requests wait for. Requests of keys at their
    limit of wakes do not count, and neither does demand while the tier's budget gate is closed."""
    for m, move in step.moves:
        if move.from_state == "ready" and move.to_state == "draining" and move.reason.startswith(("idle", "its pair")):
            assert not m.operator.keep_awake, move
            assert not _in_flight(step.after, m.id), move
            assert _certain(step, m), move
            closed = m.spec.tier in step.after.closed
            assert closed or not demand_for(step.after, m.spec.models), move


def doubt_stops_nothing(step: HandledEvent) -> None:
    """A draining machine falls asleep only while its provider is not in doubt, unless the operator ordered it or its
    provider is about to reclaim it."""
    for m, move in step.moves:
        if move.from_state == "draining" and move.to_state == "falling_asleep":
            assert m.is_leaving or step.before.machines[m.id].is_leaving or _certain(step, m), move


def nobody_is_cut_off(step: HandledEvent) -> None:
    """A machine that was ready falls asleep only after every live gateway has seen that it drains and has no request in
    flight there. A waking machine may be stopped at any time. A broken one that was ready is stopped only while no live
    gateway has requests in flight there, unless the operator forces it."""
    for m, move in step.moves:
        if move.to_state != "falling_asleep":
            continue
        assert move.from_state in ("waking", "draining", "broken"), move
        before = step.before.machines.get(m.id)
        if before is not None and before.state == move.from_state == "broken":
            is_forced = isinstance(step.event, Command) and step.event.force
            assert is_forced or not _in_flight(step.after, m.id), move
        if move.from_state == "draining":
            revision = step.before.machines[m.id].drain_revision
            for report in step.after.gateways.values():
                use = report.activity.machines.get(m.id)
                assert use is not None, (move, report)
                assert revision is not None, move
                assert use.in_flight == 0, (move, report)
                assert (use.acknowledged or 0) >= revision, (move, report)


def running_requests_are_not_cut_off(step: HandledEvent) -> None:
    """A machine that was ready falls asleep only after its engine has said, once every gateway had let go of it, that
    it runs nothing. An engine that does not say counts as idle, and the operator's `--force` does without."""
    for m, move in step.moves:
        if move.from_state == "draining" and move.to_state == "falling_asleep":
            before = step.before.machines[m.id]
            is_idle = isinstance(step.event, RequestsCounted) and step.event.machine == m.id and not step.event.running
            is_forced = before.operator.is_forced or (isinstance(step.event, Command) and step.event.force)
            assert is_idle or is_forced or before.endpoint is None, (move, step.event)


def moves_are_legal(step: HandledEvent) -> None:
    """Every change of state is a legal transition, and in the journal."""
    states = {m.id: m.state for m in step.before.machines.values()}
    for _, move in step.moves:
        assert move.from_state == states.get(move.machine), move
        assert is_legal(move.from_state, move.to_state), move
        states[move.machine] = move.to_state
    assert {m.id: m.state for m in step.after.machines.values()} == states | {
        m.id: None for m in step.after.machines.values() if m.id not in states
    }


def records_are_true(world: FleetRun) -> None:
    """The bucket `fleet` has the fleet as it is."""
    for m in world.fleet.machines.values():
        known = world.bucket.get(m.id)
        assert m.record() == (known[0] if known else None), m.id


def memory_is_true(world: FleetRun) -> None:
    """The bucket `waker` has what a later leader must know."""
    for m in world.fleet.machines.values():
        if m.spec.configured:
            assert world.memory.get(f"machine.{m.id}") == m.memory(), m.id
    orders = world.memory.get("orders")
    assert (orders.models if isinstance(orders, OperatorWakesMemory) else ()) == world.fleet.operator_wakes
    for tier, history in world.fleet.history.items():
        known = world.memory.get(f"tier.{tier}")
        assert known == history.memory(tier) or (known is None and not history.phases and not history.gaps), tier


def journal_has_no_gap(world: FleetRun) -> None:
    """The journal has no gap: each transition of a machine begins where the previous one ended, or, under a new leader,
    where its record is. If a leader died between journal and record, its successor journals that transition again. A
    machine that is configured again begins anew."""
    begun, recorded = world.journal_before
    last: dict[str, MachineState] = dict(recorded)
    for entry in world.journal[begun:]:
        if isinstance(entry, Transition):
            assert entry.from_state == last.get(entry.machine), entry
            last[entry.machine] = entry.to_state
    for m in world.fleet.machines.values():
        assert m.state == last.get(m.id), m.id


def removed_is_gone(world: FleetRun) -> None:
    """A machine that was removed from the configuration is `gone` in the journal, and no leader finds it in another
    state."""
    moves = [entry for entry in world.journal if isinstance(entry, Transition) and entry.tier]
    last = {move.machine: move.to_state for move in moves if move.machine not in world.fleet.machines}
    assert set(last.values()) <= {"gone"}, last
    left = {name: record for name, (record, _) in world.bucket.items() if name not in world.fleet.machines}
    assert all(record.state == "gone" and record.alarm for record in left.values()), left


def one_wake_per_burst(world: FleetRun) -> None:
    """One machine at a time wakes for a model, regardless of the number of requests; two if the first may be too late
    or another model wants one too. Machines started outside the waker, or before a budget gate changed, do not
    count."""
    spec = world.fleet.spec
    for model, lineup in spec.lineups.items():
        others = {name for other in spec.lineups if other != model for name in spec.lineups[other]}
        waking = [m for name in lineup if (m := world.fleet.machines[name]).state == "waking"]
        waking = [m for m in waking if m.since > world.turned_at]
        own = [m.id for m in waking if m.id not in others and "is adopted" not in m.reason]
        hedges = any(spec.observation_policy(spec.machines[name]).is_remote for name in lineup)
        assert len(own) <= (HEDGED if hedges else 1), f"one start per burst: {own}"


STEPS: Sequence[Callable[[HandledEvent], None]] = (
    moves_are_legal,
    phase_while_waking,
    few_starts,
    few_stops,
    ready_can_be_reached,
    call_in_its_state,
    calls_fit_the_state,
    one_call_at_a_time,
    cordoned_is_not_used,
    closed_is_not_woken,
    locked_is_not_woken,
    backoff_holds,
    unready_raises_an_alarm,
    one_of_a_pair,
    idle_is_certain,
    doubt_stops_nothing,
    nobody_is_cut_off,
    running_requests_are_not_cut_off,
)
WORLDS: Sequence[Callable[[FleetRun], None]] = (
    records_are_true,
    memory_is_true,
    journal_has_no_gap,
    removed_is_gone,
    one_wake_per_burst,
)


def sentences() -> Mapping[str, str]:
    """Each invariant's name and what it says, on one line."""
    return {check.__name__: " ".join((check.__doc__ or "").split()) for check in (*STEPS, *WORLDS)}


def _stops(machine: Machine) -> int:
    return 0 if machine.stop is None else machine.stop.count


def _in_flight(fleet: Fleet, machine: str) -> int:
    uses = [report.activity.machines.get(machine) for report in fleet.gateways.values()]
    return sum(use.in_flight for use in uses if use is not None)


def _certain(step: HandledEvent, machine: Machine) -> bool:
    health = step.after.provider_health.get(machine.spec.provider, ProviderHealth())
    every_s = step.after.spec.observation_policy(machine.spec).observe_every_s
    return health.passed_test and step.now - health.observed_at <= 3 * every_s + 10.0
