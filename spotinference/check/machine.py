"""Wakes one machine through the running services, sends a token, and puts it to sleep again; each part is timed."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import aiohttp
import msgspec

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus
from shared.bus.subjects import journal
from shared.bus.topology import FLEET_JOURNAL
from shared.config.load import environment
from shared.config.sections import Config, WakerSection
from shared.errors import BusError, Misconfigured, Rejected
from shared.fleet_watcher import FleetWatcher
from shared.messages.budget import Journalled
from shared.messages.waker import MachineRecord, Phase, PhaseEnded, Transition
from spotinference.bench.run import KEY_VARIABLE
from spotinference.bench.streamed_request import Target, send_request
from spotinference.bench.targets import gateway_origin
from spotinference.context import Context
from spotinference.fleet.watcher import watch_fleet
from spotinference.journal.follower import decode_entries
from spotinference.terminal import print_line, progress
from spotinference.waker_commands import carry_out, describe, request_command

BUDGET_SECONDS = 480.0
"""What a wake may take by the service's promise; the cap is what it may take at most."""
START_SECONDS = 10.0
"""The waker has begun the wake within this time, or will not."""
GRACE_SECONDS = 30.0
"""Beyond the longest wake: for the waker to give up and say so."""
RELEASE_SECONDS = 5.0
"""A gateway reports within this time that a request is over."""
TOKEN_SECONDS = 60.0


LEFT_RUNNING = (
    "IT MAY BE RUNNING AND BILLED: run `spotinference hibernate {machine} --wait`, and if that fails, stop it at its "
    "provider"
)
NOT_STARTED = (
    "the waker does not start it while its provider's refusal is fresh (a minute), its tier's budget gate is closed or "
    "a machine of its pair is awake: see `spotinference journal --machine {machine}` and `spotinference budget`"
)
ADVICE: Mapping[Phase, str] = {
    "calling": "its provider did not take the start: `spotinference check` tries credentials and permissions, and "
    "`spotinference journal --machine {machine}` has the provider's words",
    "booting": "its provider took the start, and it did not come up: look at its state and console there",
    "reaching": "it runs, and nothing answers at its endpoint: compare that with its address, and look at its firewall "
    "(`sources`), its security group and the tunnel",
    "loading": "it can be reached, and its engine is not up: see `journalctl -u spotinference-engine` and `-u "
    "spotinference-weights` on it; a local command's output is in the data directory",
    "first_token": "its engine is up and gives no token: compare `served_as` and `key_file` with the engine's, and see "
    "`journalctl -u spotinference-engine` on it",
}
"""What to do about a wake that ended in the phase."""


def is_asleep(record: MachineRecord | None) -> bool:
    return record is not None and record.state in ("asleep", "gone")


class PhaseTime(msgspec.Struct, frozen=True, kw_only=True):
    """One phase of the wake."""

    phase: Phase
    seconds: float
    limit_seconds: float
    done: bool
    """False: the wake ended in it."""


class MachineReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the check found. Times are seconds."""

    machine: str
    model: str
    ready: bool
    seconds: float | None
    """From asleep to ready, or to the end of the attempt, by the waker's clock; None if it never began."""
    budget_seconds: float
    phases: tuple[PhaseTime, ...]
    token_seconds: float | None = None
    """To the first token through the gateway; None without a key."""
    sleep_seconds: float | None = None
    """From the order to hibernate to asleep; None if it was left to the waker."""
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


async def check_machine(
    bus: JetStreamBus, context: Context, machine: str, *, key: str | None, url: str | None
) -> MachineReport:
    """Wake the machine, send a token through the gateway if there is a key, and hibernate the machine.

    Raises:
        Misconfigured: there is no such machine, or no model for it.
        Rejected: it is not asleep, so it may be in use; or the waker rejects the order.
    """
    config = context.config()
    model = _model_of(config, machine)
    key = key or environment(KEY_VARIABLE)
    target = Target(origin=gateway_origin(context, url), model=model, key=key) if key else None
    async with watch_fleet(bus) as watcher:
        before = _require_asleep(watcher.records.get(machine), machine)
        with progress(f"machine {machine}") as show:
            reply = await request_command(bus, "wake", machine, is_machine=True)
            try:
                record = await _follow_wake(watcher, before, reply.wake_cap + GRACE_SECONDS, show)
                entries = list(decode_entries(await bus.read(FLEET_JOURNAL, journal(machine))))
                report = build_report(config.waker, model, before, record, entries)
                if report.ready and target is not None:
                    show("sending a token")
                    report = await _send_token(watcher, config, report, target)
                if is_asleep(watcher.records.get(machine)):
                    return report
                show("putting it to sleep")
                return await put_to_sleep(bus, watcher, report)
            except BaseException:  # Ctrl-C too
                print_line(f"wrong machine {machine}: {LEFT_RUNNING.format(machine=machine)}", err=True)
                raise


def _model_of(config: Config, machine: str) -> str:
    tiers = {m.id: m.tier for m in config.machine}
    if machine not in tiers:
        raise Misconfigured(f"--machine: no [[machine]] has the id {machine!r}; there are {', '.join(tiers) or 'none'}")
    model = next((model.name for model in config.model if tiers[machine] in model.lineup), None)
    if model is None:
        raise Misconfigured(f"--machine: no [[model]] has the tier of {machine} in its lineup")
    return model


def _require_asleep(record: MachineRecord | None, machine: str) -> MachineRecord:
    if record is None:
        raise Rejected(f"{machine} is not on record: does the waker use another configuration?")
    if record.state != "asleep":
        raise Rejected(f"only a machine that is asleep is checked, and {describe(record)}")
    if record.cordoned:
        raise Rejected(f"{machine} is cordoned: run `spotinference uncordon {machine}` first")
    return record


async def _follow_wake(
    watcher: FleetWatcher, before: MachineRecord, limit_s: float, show: Callable[[str], None]
) -> MachineRecord:
    """Return the machine's record once its wake has ended, or as it is when the time is up."""
    began_at = time.monotonic()
    while True:
        record = watcher.records.get(before.machine) or before
        waited_s = time.monotonic() - began_at
        has_begun = record.generation > before.generation
        if has_begun and record.state != "waking":
            return record
        if waited_s >= (limit_s if has_begun else min(limit_s, START_SECONDS)):
            return record
        show(describe(record))
        await watcher.wait_for_change(1.0)


def build_report(
    waker: WakerSection, model: str, before: MachineRecord, after: MachineRecord, entries: Sequence[Journalled]
) -> MachineReport:
    """Return the report of a wake from the machine's journal."""
    is_ready = after.generation > before.generation and after.state == "ready"
    phases: tuple[PhaseTime, ...] = ()
    seconds: float | None = None
    moves = [e for e in entries if isinstance(e, Transition) and e.generation > before.generation]
    wake_id = next((move.wake_id for move in moves if move.to_state == "waking"), None)
    if wake_id is not None:  # the record of a machine that is asleep again does not have it
        own = [e for e in entries if isinstance(e, PhaseEnded | Transition) and e.wake_id == wake_id]
        limits = phase_limits(waker)
        phases = tuple(
            PhaseTime(phase=e.phase, seconds=e.seconds, limit_seconds=float(limits[e.phase]), done=e.done)
            for e in own
            if isinstance(e, PhaseEnded)
        )
        began_at = next((e.at for e in own if isinstance(e, Transition) and e.to_state == "waking"), None)
        if began_at is not None:
            seconds = max(0.0, own[-1].at - began_at)
    faults = []
    if not is_ready:
        faults += _failures(before, after, phases)
    elif seconds is not None and seconds > BUDGET_SECONDS:
        slowest = max(phases, key=lambda phase: phase.seconds)
        faults.append(
            f"{seconds:.0f} s to ready, and the budget is {BUDGET_SECONDS:.0f} s: most of it is {slowest.phase}"
        )
    return MachineReport(
        machine=before.machine,
        model=model,
        ready=is_ready,
        seconds=seconds,
        budget_seconds=BUDGET_SECONDS,
        phases=phases,
        faults=tuple(faults),
    )


def phase_limits(waker: WakerSection) -> Mapping[Phase, float]:
    """Return how long each phase may take."""
    return {
        "calling": 2 * waker.call_timeout,
        "booting": waker.booting_limit,
        "reaching": waker.reaching_limit,
        "loading": waker.loading_limit,
        "first_token": waker.first_token_limit,
    }


def _failures(before: MachineRecord, after: MachineRecord, phases: Sequence[PhaseTime]) -> list[str]:
    """Return what went wrong, and what to do about it."""
    if after.generation == before.generation:
        advice = NOT_STARTED.format(machine=before.machine)
        return [f"the waker did not start it within {START_SECONDS:g} s: {describe(after)}", advice]
    faults = [f"it did not become ready: {describe(after)}"]
    if phases and not phases[-1].done:
        faults.append(ADVICE[phases[-1].phase].format(machine=before.machine))
    return faults


async def _send_token(watcher: FleetWatcher, config: Config, report: MachineReport, target: Target) -> MachineReport:
    """Request one token through the gateway, unless another machine might serve it."""
    tiers = config.models[report.model].lineup
    others = [
        r.machine
        for r in watcher.records.values()
        if r.state == "ready" and r.tier in tiers and r.machine != report.machine
    ]
    if others:
        text = f"no token was sent through the gateway: {', '.join(others)} serves {report.model} too"
        return msgspec.structs.replace(report, notes=(*report.notes, text))
    headers = {"X-Wake-Timeout": "0"}  # nothing else is woken for it
    timeout = aiohttp.ClientTimeout(total=TOKEN_SECONDS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False) as session:
        shot = await send_request(session, target, "Hi", 1, ignore_eos=False)
    if shot.fault is not None or shot.first is None:
        text = f"no token through the gateway: {shot.status} {shot.fault or 'an empty answer'}"
        return msgspec.structs.replace(report, faults=(*report.faults, text))
    return msgspec.structs.replace(report, token_seconds=shot.first - shot.sent)


async def put_to_sleep(bus: Bus, watcher: FleetWatcher, report: MachineReport) -> MachineReport:
    """Hibernate the machine, unless requests use it meanwhile. One that may go on running is a fault."""
    if await _is_in_use(watcher, report.machine):
        text = "it was left awake: requests use it meanwhile"
        return msgspec.structs.replace(report, notes=(*report.notes, text))
    began_at = time.monotonic()
    try:
        await carry_out(bus, "hibernate", report.machine, math.inf)
    except (Rejected, BusError) as error:
        record = watcher.records.get(report.machine)
        if isinstance(error, Rejected) and record is not None and record.state == "ready" and report.ready:
            return msgspec.structs.replace(report, notes=(*report.notes, f"it was left awake: {error}"))
        text = f"it was not put to sleep: {error}"
        loud = LEFT_RUNNING.format(machine=report.machine)
        return msgspec.structs.replace(report, faults=(*report.faults, text, loud))
    return msgspec.structs.replace(report, sleep_seconds=time.monotonic() - began_at)


async def _is_in_use(watcher: FleetWatcher, machine: str) -> bool:
    """Whether requests are in flight there; that of this check is over within the time that gateways need to say so."""
    deadline = time.monotonic() + RELEASE_SECONDS
    while any(row.in_flight for row in watcher.rows() if row.id == machine):
        if time.monotonic() >= deadline:
            return True
        await watcher.wait_for_change(0.5)
    return False
