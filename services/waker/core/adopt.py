"""How a waker that has just become the leader takes over: what is on record, and what the providers see."""

from collections.abc import Mapping
from dataclasses import replace

from services.waker.core.events import Effect, Sight, Write
from services.waker.core.fleet import look
from services.waker.core.plan import MachinePlan, Plan
from services.waker.core.policy import COOL_LIMIT_SECONDS
from services.waker.core.state import Fleet, Machine
from services.waker.core.turn import Turn
from shared.messages.waker import MachineRecord


def adopt(
    plan: Plan,
    records: Mapping[str, tuple[MachineRecord, int]],
    sights: Mapping[str, Sight],
    now: float,
    before: Fleet | None = None,
) -> tuple[Fleet, list[Effect]]:
    """The fleet to begin with. `records` come with their revisions; a machine without a sight was not seen yet.

    `before`: this waker's own last fleet, for what stands in no record: starts and failures, durations, last uses.
    """
    machines = {m.id: _recalled(m, records.get(m.id), before, plan, now) for m in plan.machines.values()}
    wakes = before.wakes if before else {}
    latest = now + plan.wake_cap
    fleet = Fleet(
        plan=plan,
        leading_since=now,
        machines=machines,
        wakes={model: replace(wake, deadline=min(wake.deadline, latest)) for model, wake in wakes.items()},
        history=before.history if before else {},
    )
    turn = Turn(fleet, now)
    for name, sight in sights.items():
        machine = turn.machines[name]
        if machine.state == "waking" and not sight.running:
            reason = f"the wake was left by its waker: {sight.reason or 'no engine runs'}"
            turn.move(machine, "asleep", reason, at=sight.ended_at)
        else:
            look(turn, machine, sight)
    fleet, effects = turn.done()
    told: list[Effect] = [effect for effect in effects if not isinstance(effect, Write)]
    # Whatever the bucket says otherwise, or says in an older form.
    for machine in fleet.machines.values():
        record, known = machine.record(), records.get(machine.id)
        if record is not None and (known is None or known[0] != record):
            told.append(Write(record))
    return fleet, told


def _recalled(
    plan: MachinePlan, known: tuple[MachineRecord, int] | None, before: Fleet | None, whole: Plan, now: float
) -> Machine:
    machine = Machine(plan=plan, endpoint=plan.endpoint, since=now)
    if known is None:
        return machine
    record, revision = known
    kept = before.machines.get(plan.id) if before else None
    machine = Machine(
        plan=plan,
        endpoint=plan.endpoint,
        since=now,
        generation=record.generation,
        tried=kept.tried if kept else (record.wake_id or "", 1),
        failures=kept.failures if kept else 0,
        # The clock may have been set back since.
        cool_until=min(kept.cool_until, now + COOL_LIMIT_SECONDS) if kept else 0.0,
        last_used=min(kept.last_used, now) if kept else 0.0,
    )
    return machine if record.state == "gone" or not _fits(plan, record) else _resumed(machine, record, revision, whole)


def _fits(plan: MachinePlan, record: MachineRecord) -> bool:
    """Whether the record is about the machine as it is configured now."""
    if plan.sleeps:
        return record.tier == plan.tier
    return record.tier == plan.tier and (record.state == "broken" or record.endpoint == plan.endpoint)


def _resumed(machine: Machine, record: MachineRecord, revision: int, plan: Plan) -> Machine:
    """Where the record left it. The clock of the one who wrote it may have been ahead of ours."""
    since = min(record.since, machine.since)
    waking = record.state == "waking"
    return replace(
        machine,
        state=record.state,
        since=since,
        reason=record.reason,
        provider_state=record.provider_state,
        endpoint=record.endpoint or machine.endpoint,
        wake_id=record.wake_id,
        key_id=record.key_id,
        deadline=since + plan.wake_cap if waking else 0.0,
        phase="calling" if waking else None,
        phase_since=machine.since,
        drain_revision=revision if record.state == "draining" else None,
        reached=not machine.plan.sleeps and record.state == "ready",
    )
