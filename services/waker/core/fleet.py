"""The state machine of the fleet: `handle(fleet, event, now)` gives the next fleet and what is to be done.

An event only says what is known now; what follows from it is worked out for every machine after every event, so a
lost event is made good by the next.
"""

from services.waker.core import commands, health, observations, sleeping, waking
from services.waker.core.events import (
    ActivityReported,
    Called,
    Command,
    DemandReported,
    Effect,
    Event,
    Observed,
    Probed,
    RecordWritten,
    Tested,
    Tick,
)
from services.waker.core.policy import may_drain
from services.waker.core.provisioning import bring_up
from services.waker.core.state import DemandLevel, Fleet, GatewayReport, Machine
from services.waker.core.step import LOST_SECONDS, Step
from shared.messages.gateway import MachineActivity
from shared.messages.waker import ProviderCall

TEST_SECONDS = 3600.0
RETEST_SECONDS = 60.0
"""After a self-test that failed."""


def handle(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, list[Effect]]:
    """The next fleet, and the effects in the order in which they are to be done: journal, records, the rest."""
    step = Step(fleet, now)
    _forget(step)
    _absorb(step, event)
    for name in list(step.machines):
        _overdue(step, step.machines[name])
        _advance(step, step.machines[name])
    bring_up(step)
    _ask_providers(step)
    return step.done()


def _absorb(step: Step, event: Event) -> None:
    match event:
        case DemandReported():
            _wanted(step, event)
        case ActivityReported():
            _used(step, event)
        case Observed():
            observations.apply(step, event)
        case Tested():
            observations.apply_self_test(step, event)
        case Command():
            commands.given(step, event)
        case Called():
            _called(step, event)
        case Probed():
            _probed(step, event)
        case RecordWritten():
            _written(step, event)
        case Tick():
            step.closed = event.closed


def _forget(step: Step) -> None:
    """What is too old to count."""
    spec, now = step.spec, step.now
    step.demand = {
        key: level
        for key, level in step.demand.items()
        if now - level.at <= spec.demand_timeout and now < level.deadline
    }
    step.gateways = {n: heard for n, heard in step.gateways.items() if now - heard.at <= spec.gateway_timeout}


def _wanted(step: Step, event: DemandReported) -> None:
    request = event.request
    key = (request.model, request.gateway)
    known = step.demand.get(key)
    late = known is not None and _is_late(request.sent_at, known.request.sent_at, step.spec.demand_timeout)
    if request.model in step.spec.lineups and not late:
        if known is not None and not known.request.waiting:
            del step.demand[key]  # wanted anew: behind those that wait already
        step.demand[key] = DemandLevel(request, min(event.at, step.now))
        _forget(step)


def _written(step: Step, event: RecordWritten) -> None:
    """The revision that gateways have to acknowledge is that of the first record that says `draining`."""
    record = event.record
    machine = step.machines.get(record.machine)
    if machine is None or machine.state != "draining" or machine.drain_revision is not None:
        return
    if record.state == "draining" and record.since == machine.since:
        step.set(machine, drain_revision=event.revision)


def _used(step: Step, event: ActivityReported) -> None:
    told = event.activity
    known = step.gateways.get(told.gateway)
    if known is not None and _is_late(told.sent_at, known.activity.sent_at, step.spec.gateway_timeout):
        # It lives, be its clock set back: a drain goes on waiting for it.
        step.gateways[told.gateway] = GatewayReport(known.activity, step.now)
        return
    for name, use in told.machines.items():
        if machine := step.machines.get(name):
            used = _last_use(use, step.now)
            if used > machine.last_used:
                _note_gap(step, machine, used)
                step.set(machine, last_used=used)
    if told.leaving:
        step.gateways.pop(told.gateway, None)
    else:
        step.gateways[told.gateway] = GatewayReport(told, step.now)


def _last_use(use: MachineActivity, now: float) -> float:
    """By our clock."""
    if use.in_flight:
        return now
    return min(now, use.last_used_at or 0.0) if use.idle_s is None else now - max(0.0, use.idle_s)


def _note_gap(step: Step, machine: Machine, used: float) -> None:
    """How long the tier was unused until now."""
    before = max(m.last_used for m in step.machines.values() if m.spec.tier == machine.spec.tier)
    if before and used > before and machine.spec.sleeps:
        history = step.history_of(machine).gap(used - before)
        if history.gaps != step.history_of(machine).gaps:
            step.history[machine.spec.tier] = history


def _is_late(sent_at: float, known: float, window: float) -> bool:
    """A late or repeated message never overrules a newer one. Further back than the window, a clock was set."""
    return 0.0 < known - sent_at <= window


def _called(step: Step, event: Called) -> None:
    machine = step.machines.get(event.machine)
    if machine is None or machine.call is None or machine.call.serial != event.serial:
        return
    step.told(
        ProviderCall(
            at=step.now,
            machine=machine.id,
            call=event.call,
            outcome=event.outcome,
            code=event.code,
            seconds=event.seconds,
        )
    )
    machine = step.set(machine, call=None, called_at=step.now)
    if event.call == "stop":
        sleeping.called(step, machine, event)
    elif machine.state == "waking":
        waking.called(step, machine, event)


def _overdue(step: Step, machine: Machine) -> None:
    """A call whose outcome was lost is in doubt."""
    call = machine.call
    if call is not None and step.now - call.sent_at > step.spec.call_timeout + LOST_SECONDS:
        seconds = step.now - call.sent_at
        event = Called(
            machine=machine.id, call=call.kind, serial=call.serial, outcome="unknown", seconds=seconds, code="lost"
        )
        _called(step, event)


def _probed(step: Step, event: Probed) -> None:
    machine = step.machines.get(event.machine)
    if machine is None or machine.probe_serial != event.serial:
        return
    machine = step.set(machine, probe_serial=None, max_model_len=event.max_model_len or machine.max_model_len)
    if machine.state == "waking":
        waking.probed(step, machine, event)
    elif step.spec.observation_policy(machine.spec).reachable:
        health.probed(step, machine, event)


def _advance(step: Step, machine: Machine) -> None:
    if machine.cordoned and machine.state == "ready":
        machine = step.move(machine, "draining", "the operator keeps it from requests")
    match machine.state:
        case "waking":
            waking.advance(step, machine)
        case "ready" if may_drain(step.fleet, machine, step.now):
            step.move(machine, "draining", f"idle for {step.now - machine.idle_since:.0f} s")
        case "draining":
            sleeping.drain(step, machine)
        case "falling_asleep":
            sleeping.advance(step, machine)
        case "broken":
            sleeping.mend(step, machine)
        case _:
            pass
    health.advance(step, step.machines[machine.id])


def _ask_providers(step: Step) -> None:
    """Looks and self-tests that are due."""
    for provider in step.spec.providers:
        observation_policies = step.spec.observation_policies[provider]
        machines = [m for m in step.machines.values() if m.spec.provider == provider]
        changing = any(
            m.state in ("waking", "falling_asleep", None) or (m.observation and m.observation.ending) for m in machines
        )
        step.observe(
            provider, observation_policies.observe_fast_s if changing else observation_policies.observe_every_s
        )
        account = step.provider_health[provider]
        step.test(provider, TEST_SECONDS if account.tested else RETEST_SECONDS)
