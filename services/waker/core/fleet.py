"""The state machine of the fleet: `handle(fleet, event, now)` gives the next fleet and what is to be done.

An event only says what is known now; what follows from it is worked out for every machine after every event, so a
lost event is made good by the next.
"""

from services.waker.core import waking
from services.waker.core.events import Called, Demand, Effect, Event, Looked, Probed, Sight, Tick, Used, Written
from services.waker.core.policy import candidate, demands, drained, in_flight, may_drain, needs_another
from services.waker.core.state import Fleet, Heard, Machine, Wake, Wanted
from services.waker.core.turn import LOST_SECONDS, Turn
from shared.messages.waker import ProviderCall

LOOK_SECONDS = 1.0
"""How late the death of an engine is seen."""
FAST_LOOK_SECONDS = 0.25
DRAIN_SECONDS = 60.0
"""A gateway that is alive and does not let go within this keeps the machine awake."""
STOP_SECONDS = 20.0
"""An engine gets 10 s to end by itself; after this it is asked again."""
STOP_RETRY_SECONDS = 1.0
STOP_LIMIT = 3
BROKEN_SECONDS = 60.0
"""Between two attempts to put a broken machine to sleep."""
WATCH_SECONDS = 10.0
"""Between two probes of a machine that never sleeps, while it answers."""
BACK_OFF_SECONDS = 30.0
"""The longest between two probes of one that does not."""
FAULTS = 3
"""Probes in a row that fail before a machine that never sleeps counts as broken."""


def handle(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, list[Effect]]:
    """The next fleet, and the effects in the order in which they are to be done: journal, records, the rest."""
    turn = Turn(fleet, now)
    _forget(turn)
    _absorb(turn, event)
    for name in turn.machines:
        _overdue(turn, turn.machines[name])
        _advance(turn, turn.machines[name])
    _wake(turn)
    return turn.done()


def _absorb(turn: Turn, event: Event) -> None:
    match event:
        case Demand():
            _wanted(turn, event)
        case Used():
            _used(turn, event)
        case Looked(name, sight, asked_at):
            machine = turn.machines.get(name)
            if machine and machine.call is None and asked_at > max(machine.called_at, machine.since):
                look(turn, machine, sight)
        case Called():
            _called(turn, event)
        case Probed():
            _probed(turn, event)
        case Written():
            _written(turn, event)
        case Tick():
            pass


def _forget(turn: Turn) -> None:
    """What is too old to count."""
    plan, now = turn.plan, turn.now
    turn.demand = {
        key: level
        for key, level in turn.demand.items()
        if now - level.at <= plan.demand_timeout and now < level.request.deadline
    }
    turn.gateways = {n: heard for n, heard in turn.gateways.items() if now - heard.at <= plan.gateway_timeout}


def _wanted(turn: Turn, event: Demand) -> None:
    request = event.request
    key = (request.model, request.gateway)
    known = turn.demand.get(key)
    late = known is not None and _is_late(request.sent_at, known.request.sent_at, turn.plan.demand_timeout)
    if request.model in turn.plan.lineups and not late:
        turn.demand[key] = Wanted(request, min(event.at, turn.now))
        _forget(turn)


def _written(turn: Turn, event: Written) -> None:
    """The revision that gateways have to acknowledge is that of the first record that says `draining`."""
    record = event.record
    machine = turn.machines.get(record.machine)
    if machine is None or machine.state != "draining" or machine.drain_revision is not None:
        return
    if record.state == "draining" and record.since == machine.since:
        turn.set(machine, drain_revision=event.revision)


def _used(turn: Turn, event: Used) -> None:
    told = event.activity
    known = turn.gateways.get(told.gateway)
    if known is not None and _is_late(told.sent_at, known.activity.sent_at, turn.plan.gateway_timeout):
        return
    for name, use in told.machines.items():
        if machine := turn.machines.get(name):
            used = turn.now if use.in_flight else min(turn.now, use.last_used_at or 0.0)
            turn.set(machine, last_used=max(machine.last_used, used))
    if told.leaving:
        turn.gateways.pop(told.gateway, None)
    else:
        turn.gateways[told.gateway] = Heard(told, turn.now)


def _is_late(sent_at: float, known: float, window: float) -> bool:
    """A late or repeated message never overrules a newer one. Further back than the window, a clock was set."""
    return 0.0 < known - sent_at <= window


def look(turn: Turn, machine: Machine, sight: Sight) -> None:
    """What the provider sees, taken over: it is right, whatever we thought."""
    machine = turn.set(machine, provider_state=sight.provider_state)
    match machine.state:
        case "waking":
            waking.seen(turn, machine, sight)
        case "ready" | "draining" if not sight.running or sight.ending or sight.generation != machine.generation:
            turn.move(machine, "asleep", sight.reason or "its engine was ended, not by us", at=sight.ended_at)
        case "falling_asleep" | "broken" if not sight.running:
            # The reason stays: it says why it sleeps.
            turn.move(machine, "asleep", machine.reason, at=sight.ended_at, stops=0)
        case "asleep" | None if sight.running and not sight.ending:
            waking.take_over(turn, machine, sight)
        case None:
            turn.move(machine, "asleep", "seen for the first time")
        case _:
            pass


def _called(turn: Turn, event: Called) -> None:
    machine = turn.machines.get(event.machine)
    if machine is None or machine.call is None or machine.call.serial != event.serial:
        return
    turn.told(
        ProviderCall(
            at=turn.now,
            machine=machine.id,
            call=event.call,
            outcome=event.outcome,
            code=event.code,
            seconds=event.seconds,
        )
    )
    machine = turn.set(machine, call=None, called_at=turn.now)
    accepted = event.outcome == "accepted"
    if event.call == "stop":
        turn.set(machine, stop_after=turn.now + (STOP_SECONDS if accepted else STOP_RETRY_SECONDS))
    elif machine.state == "waking" and accepted and event.endpoint is not None:
        waking.started(turn, machine, event.endpoint)
    elif machine.state == "waking" and event.outcome == "refused":
        waking.fail(turn, machine, event.reason or event.code, running=False)
    # Anything else is in doubt: the next look decides.


def _overdue(turn: Turn, machine: Machine) -> None:
    """A call whose outcome was lost is in doubt."""
    call = machine.call
    if call is not None and turn.now - call.sent_at > turn.plan.call_timeout + LOST_SECONDS:
        seconds = turn.now - call.sent_at
        event = Called(
            machine=machine.id, call=call.kind, serial=call.serial, outcome="unknown", seconds=seconds, code="lost"
        )
        _called(turn, event)


def _probed(turn: Turn, event: Probed) -> None:
    machine = turn.machines.get(event.machine)
    if machine is None or machine.probe_serial != event.serial:
        return
    machine = turn.set(machine, probe_serial=None)
    if machine.state == "waking":
        waking.probed(turn, machine, event)
    elif machine.plan.sleeps:
        return
    elif event.answered and event.step == "reach":
        after = turn.now + (WATCH_SECONDS if machine.state == "ready" else 0.0)
        turn.set(machine, reached=True, probe_failures=0, probe_after=after)
    elif event.answered:
        waking.answered(turn, turn.set(machine, probe_after=turn.now + WATCH_SECONDS), event)
    else:
        _fault(turn, machine, event)


def _fault(turn: Turn, machine: Machine, event: Probed) -> None:
    """A machine that never sleeps did not answer."""
    failures = machine.probe_failures + 1
    pause = min(turn.plan.probe_interval * 2.0 ** min(failures, 16), BACK_OFF_SECONDS)
    if demands(turn.fleet, machine.plan.models):
        pause = min(pause, LOOK_SECONDS)
    machine = turn.set(
        machine, probe_failures=failures, probe_code=event.code, probe_after=turn.now + pause, reached=False
    )
    if failures >= FAULTS and machine.state != "broken":
        turn.told(
            ProviderCall(
                at=turn.now,
                machine=machine.id,
                call="probe",
                outcome="failed",
                code=event.code,
                seconds=event.seconds,
            )
        )
        turn.move(machine, "broken", f"does not answer: {event.code}")


def _advance(turn: Turn, machine: Machine) -> None:
    if not machine.plan.sleeps:
        if machine.plan.models:
            turn.probe(machine)
        elif machine.state is None:
            turn.move(machine, "broken", f"no model's lineup names its tier {machine.plan.tier}")
        return
    match machine.state:
        case "waking":
            waking.advance(turn, machine)
        case "ready" if may_drain(turn.fleet, machine, turn.now):
            turn.move(machine, "draining", f"idle for {machine.plan.idle_timeout:g} s")
        case "draining":
            _drain(turn, machine)
        case "falling_asleep":
            _put_to_sleep(turn, machine)
        case "broken" if turn.now - machine.since >= BROKEN_SECONDS:
            turn.call(turn.move(machine, "falling_asleep", "tried again to put it to sleep", stops=0), "stop")
        case _:
            pass
    machine = turn.machines[machine.id]
    turn.look(machine, FAST_LOOK_SECONDS if machine.state == "falling_asleep" else LOOK_SECONDS)


def _drain(turn: Turn, machine: Machine) -> None:
    fleet = turn.fleet
    if in_flight(fleet, machine.id) or machine.last_used > machine.since:
        turn.move(machine, "ready", "used while it drained")
    elif demands(fleet, machine.plan.models):
        turn.move(machine, "ready", "wanted while it drained")
    elif drained(fleet, machine):
        turn.call(turn.move(machine, "falling_asleep", machine.reason, stops=0), "stop")
    elif turn.now - machine.since > DRAIN_SECONDS:
        turn.move(machine, "ready", f"a gateway did not let go of it within {DRAIN_SECONDS:g} s")


def _put_to_sleep(turn: Turn, machine: Machine) -> None:
    if machine.call is not None or turn.now < machine.stop_after:
        return
    if machine.stops < STOP_LIMIT:
        turn.call(machine, "stop")
    else:
        turn.move(machine, "broken", f"it still runs after {STOP_LIMIT} attempts to end it")


def _wake(turn: Turn) -> None:
    """One machine at a time for each model that is wanted and has none with room."""
    for model, lineup in turn.plan.lineups.items():
        levels = demands(turn.fleet, [model])
        wake = turn.wakes.get(model)
        if wake is not None:
            states = {turn.machines[name].state for name in lineup if turn.machines[name].wake_id == wake.id}
            over = turn.now >= wake.deadline or not levels or "ready" in states
            if over and "waking" not in states:
                del turn.wakes[model]
                wake = None
        if not levels or not needs_another(turn.fleet, model, levels):
            continue
        machine = candidate(turn.fleet, model, wake.id if wake else "", turn.now)
        if machine is None:
            continue
        if wake is None:
            key_id = levels[0].request.key_id
            wake = Wake(turn.plan.new_id(turn.now), turn.now + turn.plan.wake_cap, key_id)
            turn.wakes[model] = wake
        waking.begin(turn, machine, wake, model)
