"""The state machine of the fleet: `handle(fleet, event, now)` returns the next fleet and its effects.

An event only adds knowledge. What follows from it is computed for every machine after every event, so that the next
event makes up for a lost one.
"""

from dataclasses import replace

from services.waker.core import commands, health, notices, observations, sleeping, waking
from services.waker.core.events import (
    ActivityReported,
    Called,
    Command,
    DemandReported,
    Effect,
    Event,
    NoticeReceived,
    Observed,
    Probed,
    RecordWritten,
    RequestsCounted,
    Tested,
    Tick,
)
from services.waker.core.machine import IN_USE, Machine
from services.waker.core.policy import may_drain
from services.waker.core.provisioning import bring_up
from services.waker.core.state import DemandLevel, Fleet, GatewayReport
from services.waker.core.step import LOST_AFTER_S, Step
from shared.messages.gateway import MachineActivity
from shared.messages.waker import ProviderCall

TEST_EVERY_S = 3600.0
RETEST_EVERY_S = 60.0
"""After a self-test that failed."""


MOST_DEMAND = 2000
"""Models and gateways with demand at a time: each event looks at all of them."""


def handle(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, list[Effect]]:
    """The next fleet, and the effects in the order in which they must be performed: journal, records, the rest."""
    step = Step(fleet, now)
    _drop_expired(step)
    _apply(step, event)
    for name in list(step.machines):
        _end_lost_call(step, step.machines[name])
        _advance(step, step.machines[name])
    bring_up(step)
    _observe_providers(step)
    return step.finish()


def _apply(step: Step, event: Event) -> None:
    match event:
        case DemandReported() | ActivityReported() | NoticeReceived():
            _apply_report(step, event)
        case Observed():
            observations.apply(step, event)
        case Tested():
            observations.apply_self_test(step, event)
        case Command():
            commands.apply(step, event)
        case Called():
            _apply_call(step, event)
        case Probed() | RequestsCounted():
            _apply_response(step, event)
        case RecordWritten():
            _apply_record(step, event)
        case Tick():
            step.closed = event.closed


def _apply_report(step: Step, event: DemandReported | ActivityReported | NoticeReceived) -> None:
    """Apply what a gateway or a machine reports of itself."""
    match event:
        case DemandReported():
            _apply_demand(step, event)
        case ActivityReported():
            _apply_activity(step, event)
        case NoticeReceived():
            notices.apply(step, event)


def _drop_expired(step: Step) -> None:
    """Drop the reports that are too old to count."""
    spec, now = step.spec, step.now
    step.demand = {
        key: level
        for key, level in step.demand.items()
        if now - level.at <= spec.demand_timeout_s and now < level.deadline
    }
    step.gateways = {
        name: report for name, report in step.gateways.items() if now - report.at <= spec.gateway_timeout_s
    }
    step.forget_removed()


def _apply_demand(step: Step, event: DemandReported) -> None:
    request = event.request
    key = (request.model, request.gateway)
    known = step.demand.get(key)
    if known is None and len(step.demand) >= MOST_DEMAND:
        return  # it is repeated, and others expire
    is_late = known is not None and _is_late(request.sent_at, known.request.sent_at, step.spec.demand_timeout_s)
    if request.model in step.spec.lineups and not is_late:
        if known is not None and not known.request.waiting:
            del step.demand[key]  # new demand queues behind what waits already
        step.demand[key] = DemandLevel(request, min(event.at, step.now))
        _drop_expired(step)


def _apply_record(step: Step, event: RecordWritten) -> None:
    """Keep the revision that gateways must acknowledge: that of the first record that says `draining`."""
    record = event.record
    machine = step.machines.get(record.machine)
    if machine is None or machine.state != "draining" or machine.drain_revision is not None:
        return
    if record.state == "draining" and record.since == machine.since:
        step.put(replace(machine, drain_revision=event.revision))


def _apply_activity(step: Step, event: ActivityReported) -> None:
    activity = event.activity
    known = step.gateways.get(activity.gateway)
    if known is not None and _is_late(activity.sent_at, known.activity.sent_at, step.spec.gateway_timeout_s):
        # The gateway is alive, even if its clock was set back: a drain keeps waiting for it.
        step.gateways[activity.gateway] = GatewayReport(known.activity, step.now)
        return
    tiers_used_at = _tiers_used_at(step)
    for name, use in activity.machines.items():
        if machine := step.machines.get(name):
            used_at = _last_use(use, step.now)
            if used_at > machine.last_used_at:
                _record_gap(step, machine, tiers_used_at[machine.spec.tier], used_at)
                tiers_used_at[machine.spec.tier] = max(tiers_used_at[machine.spec.tier], used_at)
                step.put(replace(machine, last_used_at=used_at))
    if activity.leaving:
        step.gateways.pop(activity.gateway, None)
    else:
        step.gateways[activity.gateway] = GatewayReport(activity, step.now)


def _last_use(use: MachineActivity, now: float) -> float:
    """When the machine was last used, by our clock."""
    if use.in_flight:
        return now
    return min(now, use.last_used_at or 0.0) if use.idle_s is None else now - max(0.0, use.idle_s)


def _tiers_used_at(step: Step) -> dict[str, float]:
    """When each tier was last used. One pass: a report names every machine, and fleets have a thousand."""
    used_at: dict[str, float] = {}
    for machine in step.machines.values():
        tier = machine.spec.tier
        used_at[tier] = max(used_at.get(tier, 0.0), machine.last_used_at)
    return used_at


def _record_gap(step: Step, machine: Machine, before: float, used_at: float) -> None:
    """Record how long the tier was unused: from its last use until `used_at`."""
    if before and used_at > before and machine.spec.sleeps:
        history = step.history_of(machine).with_gap(used_at - before)
        if history.gaps != step.history_of(machine).gaps:
            step.history[machine.spec.tier] = history


def _is_late(sent_at: float, known: float, window_s: float) -> bool:
    """Whether a newer message is known. A difference beyond the window means that a clock was set."""
    return 0.0 < known - sent_at <= window_s


def _apply_call(step: Step, event: Called) -> None:
    machine = step.machines.get(event.machine)
    if machine is None or machine.calls.pending is None or machine.calls.pending.serial != event.serial:
        return
    step.journal(
        ProviderCall(
            at=step.now,
            machine=machine.id,
            call=event.call,
            outcome=event.outcome,
            code=event.code,
            seconds=event.seconds,
        )
    )
    machine = step.put(replace(machine, calls=replace(machine.calls, pending=None, ended_at=step.now)))
    if event.call == "stop" and machine.stop is not None:
        sleeping.apply_call(step, machine, machine.stop, event)
    elif event.call == "start" and machine.attempt is not None:
        waking.apply_call(step, machine, event)


def _end_lost_call(step: Step, machine: Machine) -> None:
    """End a call whose result was lost: its outcome is unknown."""
    call = machine.calls.pending
    if call is not None and step.now - call.sent_at > step.spec.call_timeout_s + LOST_AFTER_S:
        seconds = step.now - call.sent_at
        event = Called(
            machine=machine.id, call=call.kind, serial=call.serial, outcome="unknown", seconds=seconds, code="lost"
        )
        _apply_call(step, event)


def _apply_response(step: Step, event: Probed | RequestsCounted) -> None:
    """Apply what an engine responded."""
    if isinstance(event, RequestsCounted):
        sleeping.apply_count(step, event)
    else:
        _apply_probe(step, event)


def _apply_probe(step: Step, event: Probed) -> None:
    machine = step.machines.get(event.machine)
    if machine is None or machine.probe.serial != event.serial:
        return
    max_model_len = event.max_model_len or machine.max_model_len
    machine = step.put(replace(machine, probe=replace(machine.probe, serial=None), max_model_len=max_model_len))
    if machine.state == "waking":
        waking.apply_probe(step, machine, event)
    elif step.spec.observation_policy(machine.spec).is_remote:
        health.apply_probe(step, machine, event)


def _advance(step: Step, machine: Machine) -> None:
    """Do what the machine needs now."""
    machine = notices.advance(step, machine)
    if machine.operator.is_cordoned and machine.state == "ready":
        machine = step.transition(machine, "draining", "the operator cordoned it")
    elif machine.operator.must_sleep and machine.state == "ready":
        machine = step.transition(machine, "draining", commands.REASON)
    if machine.attempt is not None:
        waking.advance(step, machine, machine.attempt)
    elif machine.stop is not None:
        sleeping.advance(step, machine, machine.stop)
    elif machine.state == "ready" and may_drain(step.fleet, machine, step.now):
        step.transition(machine, "draining", f"idle for {step.now - machine.idle_since:.0f} s")
    elif machine.state == "draining":
        sleeping.drain(step, machine)
    elif machine.state == "ready" and machine.alarm == IN_USE:
        step.count_requests(machine, sleeping.COUNT_TIMEOUT_S)
    elif machine.state == "broken":
        sleeping.retry_broken(step, machine)
    health.advance(step, step.machines[machine.id])


def _observe_providers(step: Step) -> None:
    """Request the observations and self-tests that are due."""
    for provider in step.spec.providers:
        policy = step.spec.observation_policies[provider]
        machines = [m for m in step.machines.values() if m.spec.provider == provider]
        is_changing = any(
            m.state in ("waking", "falling_asleep", None) or (m.observation and m.observation.is_stopping)
            for m in machines
        )
        step.observe(provider, policy.observe_fast_s if is_changing else policy.observe_every_s)
        passed = step.provider_health[provider].passed_test
        step.test(provider, TEST_EVERY_S if passed else RETEST_EVERY_S)
