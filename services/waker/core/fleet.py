"""The state machine of the fleet: `handle(fleet, event, now)` gives the next fleet and what is to be done.

An event only says what is known now; what follows from it is worked out for every machine after every event, so a
lost event is made good by the next.
"""

from services.waker.core import commands, health, observations, sleeping, waking
from services.waker.core.events import (
    Called,
    Demand,
    Effect,
    Event,
    Looked,
    Order,
    Probed,
    Tested,
    Tick,
    Used,
    Written,
)
from services.waker.core.policy import may_drain
from services.waker.core.provisioning import bring_up
from services.waker.core.state import Fleet, Heard, Machine, Wanted
from services.waker.core.step import LOST_SECONDS, Turn
from shared.messages.gateway import MachineActivity
from shared.messages.waker import ProviderCall

TEST_SECONDS = 3600.0
RETEST_SECONDS = 60.0
"""After a self-test that failed."""


def handle(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, list[Effect]]:
    """The next fleet, and the effects in the order in which they are to be done: journal, records, the rest."""
    turn = Turn(fleet, now)
    _forget(turn)
    _absorb(turn, event)
    for name in list(turn.machines):
        _overdue(turn, turn.machines[name])
        _advance(turn, turn.machines[name])
    bring_up(turn)
    _ask_providers(turn)
    return turn.done()


def _absorb(turn: Turn, event: Event) -> None:
    match event:
        case Demand():
            _wanted(turn, event)
        case Used():
            _used(turn, event)
        case Looked():
            observations.looked(turn, event)
        case Tested():
            observations.tested(turn, event)
        case Order():
            commands.given(turn, event)
        case Called():
            _called(turn, event)
        case Probed():
            _probed(turn, event)
        case Written():
            _written(turn, event)
        case Tick():
            turn.closed = event.closed


def _forget(turn: Turn) -> None:
    """What is too old to count."""
    plan, now = turn.plan, turn.now
    turn.demand = {
        key: level
        for key, level in turn.demand.items()
        if now - level.at <= plan.demand_timeout and now < level.deadline
    }
    turn.gateways = {n: heard for n, heard in turn.gateways.items() if now - heard.at <= plan.gateway_timeout}


def _wanted(turn: Turn, event: Demand) -> None:
    request = event.request
    key = (request.model, request.gateway)
    known = turn.demand.get(key)
    late = known is not None and _is_late(request.sent_at, known.request.sent_at, turn.plan.demand_timeout)
    if request.model in turn.plan.lineups and not late:
        if known is not None and not known.request.waiting:
            del turn.demand[key]  # wanted anew: behind those that wait already
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
        # It lives, be its clock set back: a drain goes on waiting for it.
        turn.gateways[told.gateway] = Heard(known.activity, turn.now)
        return
    for name, use in told.machines.items():
        if machine := turn.machines.get(name):
            used = _last_use(use, turn.now)
            if used > machine.last_used:
                _note_gap(turn, machine, used)
                turn.set(machine, last_used=used)
    if told.leaving:
        turn.gateways.pop(told.gateway, None)
    else:
        turn.gateways[told.gateway] = Heard(told, turn.now)


def _last_use(use: MachineActivity, now: float) -> float:
    """By our clock."""
    if use.in_flight:
        return now
    return min(now, use.last_used_at or 0.0) if use.idle_s is None else now - max(0.0, use.idle_s)


def _note_gap(turn: Turn, machine: Machine, used: float) -> None:
    """How long the tier was unused until now."""
    before = max(m.last_used for m in turn.machines.values() if m.plan.tier == machine.plan.tier)
    if before and used > before and machine.plan.sleeps:
        history = turn.history_of(machine).gap(used - before)
        if history.gaps != turn.history_of(machine).gaps:
            turn.history[machine.plan.tier] = history


def _is_late(sent_at: float, known: float, window: float) -> bool:
    """A late or repeated message never overrules a newer one. Further back than the window, a clock was set."""
    return 0.0 < known - sent_at <= window


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
    if event.call == "stop":
        sleeping.called(turn, machine, event)
    elif machine.state == "waking":
        waking.called(turn, machine, event)


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
    machine = turn.set(machine, probe_serial=None, max_model_len=event.max_model_len or machine.max_model_len)
    if machine.state == "waking":
        waking.probed(turn, machine, event)
    elif turn.plan.account(machine.plan).reachable:
        health.probed(turn, machine, event)


def _advance(turn: Turn, machine: Machine) -> None:
    if machine.cordoned and machine.state == "ready":
        machine = turn.move(machine, "draining", "the operator keeps it from requests")
    match machine.state:
        case "waking":
            waking.advance(turn, machine)
        case "ready" if may_drain(turn.fleet, machine, turn.now):
            turn.move(machine, "draining", f"idle for {turn.now - machine.idle_since:.0f} s")
        case "draining":
            sleeping.drain(turn, machine)
        case "falling_asleep":
            sleeping.advance(turn, machine)
        case "broken":
            sleeping.mend(turn, machine)
        case _:
            pass
    health.advance(turn, turn.machines[machine.id])


def _ask_providers(turn: Turn) -> None:
    """Looks and self-tests that are due."""
    for provider in turn.plan.providers:
        plan = turn.plan.accounts[provider]
        machines = [m for m in turn.machines.values() if m.plan.provider == provider]
        changing = any(m.state in ("waking", "falling_asleep", None) or (m.sight and m.sight.ending) for m in machines)
        turn.look(provider, plan.look_fast if changing else plan.look_every)
        account = turn.accounts[provider]
        turn.test(provider, TEST_SECONDS if account.tested else RETEST_SECONDS)
