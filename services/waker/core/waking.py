"""A wake: from asleep to ready, over restarts, within its deadline, or back to sleep."""

from typing import Any

from services.waker.core import sleeping, unready
from services.waker.core.events import Called, Probed, Scope, Sight
from services.waker.core.policy import cool_down, has_untried, starts
from services.waker.core.state import Machine, Wake
from services.waker.core.step import Turn
from shared.messages.waker import ProviderCall

HOUR = 3600.0
BUSY_SECONDS = 5.0
"""A machine whose state was just changing is looked at again before it is tried again."""
ACCOUNT_SECONDS = 60.0
"""An account that refuses everything is left alone for so long."""


def begin(turn: Turn, machine: Machine, wake: Wake, reason: str) -> None:
    """Start a machine that sleeps."""
    recent = tuple(at for at in machine.woken if turn.now - at < HOUR)
    machine = turn.move(
        machine,
        "waking",
        reason,
        generation=machine.generation + 1,
        wake_id=wake.id,
        key_id=wake.keys[0] if wake.keys else None,
        causes=wake.keys,
        charged_since=turn.now,
        deadline=wake.deadline,
        tried=_tried(turn, machine, wake.id, starts(machine, wake.id) + 1),
        woken=(*recent, turn.now),
        endpoint=None,
        stops=0,
        **_unprobed(turn),
    )
    turn.call(turn.enter(machine, "calling"), "start")


def take_over(turn: Turn, machine: Machine, sight: Sight) -> None:
    """It runs, and we did not start it: one token will show what it is worth."""
    wake_id = turn.plan.new_id(turn.now)
    machine = turn.move(
        machine,
        "waking",
        "it was running without our doing and is taken over",
        generation=machine.generation + 1 if sight.generation is None else sight.generation,
        endpoint=None,
        wake_id=wake_id,
        key_id=None,
        deadline=turn.now + turn.plan.wake_cap,
        tried=_tried(turn, machine, wake_id, 1),
        stops=0,
        **_unprobed(turn),
    )
    seen(turn, turn.enter(machine, "calling"), sight)


def advance(turn: Turn, machine: Machine) -> None:
    """What a wake under way needs now."""
    assert machine.phase is not None, "who wakes is in a phase"
    probe = f"; the last probe said {machine.probe_code}" if machine.probe_code else ""
    if turn.now >= machine.deadline:
        reason = f"not ready within the wake's deadline, after {turn.now - machine.since:.1f} s{probe}"
        if machine.deadline - machine.since < turn.plan.wake_cap / 2:
            fail(turn, machine, reason, running=True)  # it came late into its wake: that proves little
        else:
            give_up(turn, machine, reason, running=True)
    elif turn.now - machine.phase_since >= turn.plan.phase_limits[machine.phase]:
        seconds = turn.now - machine.phase_since
        give_up(turn, machine, f"no further than {machine.phase} after {seconds:.1f} s of it{probe}", running=True)
    elif machine.phase in ("reaching", "loading", "first_token"):
        turn.probe(machine)


def called(turn: Turn, machine: Machine, event: Called) -> None:
    """The outcome of a start. What is in doubt is left to the next look."""
    if event.outcome == "accepted" and event.endpoint is not None:
        generation = machine.generation if event.generation is None else event.generation
        started(turn, turn.set(machine, generation=generation), event.endpoint)
    elif event.outcome == "accepted" and machine.phase == "calling":
        turn.enter(machine, "booting")
    elif event.outcome == "refused":
        reason = event.reason or event.code
        if event.scope == "busy":
            # It is no attempt that failed: its state was changing, and a look will say when it has.
            tried = _tried(turn, machine, machine.wake_id, starts(machine, machine.wake_id) - 1)
            turn.move(machine, "asleep", reason, tried=tried, cool_until=turn.now + BUSY_SECONDS)
        else:
            fail(turn, machine, reason, running=False, scope=event.scope)


def seen(turn: Turn, machine: Machine, sight: Sight) -> None:
    """The provider's view of a waking machine while no call is under way."""
    if sight.power in ("off", "halted", "failed"):
        died(turn, machine, sight)
    elif sight.power == "up" and machine.phase in ("calling", "booting"):
        generation = machine.generation if sight.generation is None else sight.generation
        endpoint = sight.endpoint or machine.plan.endpoint
        if endpoint is not None:
            started(turn, turn.set(machine, generation=generation), endpoint)
    elif sight.power == "rising" and machine.phase == "calling":
        turn.enter(machine, "booting")


def started(turn: Turn, machine: Machine, endpoint: str) -> None:
    """The machine is there, or the engine's process is, where there is no network between us."""
    if machine.phase in ("calling", "booting"):
        machine = turn.set(machine, endpoint=endpoint, **_unprobed(turn))
        turn.enter(machine, "reaching" if turn.plan.account(machine.plan).reachable else "loading")


def died(turn: Turn, machine: Machine, sight: Sight) -> None:
    """Start it again within the limit, else give up.

    A start that left no trace is repeated at once. A machine that was there and failed has had its try: others of the
    lineup come first.
    """
    reason = sight.reason or f"it did not start: its provider says {sight.provider_state}"
    count = starts(machine, machine.wake_id)
    if sight.scope:
        fail(turn, machine, reason, running=False, scope=sight.scope)
        return
    if count >= turn.plan.restart_limit:
        give_up(turn, machine, f"{reason}; started {count} times in this wake, which is the limit", running=False)
        return
    if machine.phase not in ("calling", "booting") and _others_untried(turn, machine):
        give_up(turn, machine, reason, running=False)
        return
    machine = turn.enter(machine, "calling") if machine.phase != "calling" else machine
    machine = turn.set(
        machine,
        reason=f"{reason}; started again",
        generation=max(machine.generation, sight.generation or 0) + 1,
        tried=_tried(turn, machine, machine.wake_id, count + 1),
        endpoint=None,
        **_unprobed(turn),
    )
    turn.call(machine, "start")


def probed(turn: Turn, machine: Machine, event: Probed) -> None:
    """A probe's answer while waking: the first token makes it ready."""
    if event.wrong:
        give_up(turn, turn.set(machine, probe_code=event.wrong), f"its endpoint {event.wrong}", running=True)
    elif not event.answered:
        if event.host and machine.phase == "reaching":
            machine = turn.enter(machine, "loading")
        failures = machine.probe_failures + 1
        after = turn.now + turn.plan.probe_interval
        machine = turn.set(machine, probe_failures=failures, probe_code=event.code, probe_after=after)
        reason = f"its engine is up, and does not do yet what its model is for: {event.code}"
        if event.step == "token" and unready.may_retell(turn, machine, reason):
            turn.set(machine, reason=reason, retold_at=turn.now)
    elif event.step == "reach":
        machine = turn.set(machine, reached=True, probe_after=turn.now)
        if machine.phase == "reaching":
            machine = turn.enter(machine, "loading")
        turn.enter(machine, "first_token")
    else:
        answered(turn, machine, event)


def answered(turn: Turn, machine: Machine, event: Probed) -> None:
    """One token came: ready."""
    turn.told(
        ProviderCall(
            at=turn.now,
            machine=machine.id,
            call="probe",
            outcome="accepted",
            code="",
            seconds=event.seconds,
            tokens=event.tokens,
        )
    )
    if machine.state == "waking" and machine.key_id is not None:
        turn.history[machine.plan.tier] = turn.history_of(machine).wake(turn.now - machine.since)
    settled: dict[str, Any] = {"failures": 0, "cool_until": 0.0, "probe_failures": 0}
    turn.move(machine, "ready", "the engine answered one token", unready=0, unready_reason="", **settled)


def superseded(turn: Turn, machine: Machine, winner: Machine) -> None:
    """Another machine of the same wake was quicker: this one bills for nothing."""
    sleeping.fall(turn, machine, f"{winner.id} was ready sooner")


def give_up(turn: Turn, machine: Machine, reason: str, *, running: bool) -> None:
    """The engine had its time and did not become ready."""
    _tell_probe(turn, machine)
    unready.give_up(turn, machine, reason, running=running)


def fail(turn: Turn, machine: Machine, reason: str, *, running: bool, scope: Scope = "") -> None:
    """The wake is over for this machine: it is put to sleep and left alone for a while, with whom that concerns."""
    _tell_probe(turn, machine)
    failures = machine.failures + 1
    cool_until = turn.now + (ACCOUNT_SECONDS if scope == "account" else cool_down(failures))
    left_alone: dict[str, Any] = {"failures": failures, "cool_until": cool_until}
    if running:
        sleeping.fall(turn, machine, reason, **left_alone)
    else:
        alarm = reason if scope in ("account", "quota", "machine") else ""
        turn.move(machine, "asleep", reason, alarm=alarm, **left_alone)
    for other in list(turn.machines.values()):
        if other.id != machine.id and other.state == "asleep" and _concerns(scope, machine, other):
            turn.set(other, cool_until=max(other.cool_until, cool_until))


def _concerns(scope: Scope, machine: Machine, other: Machine) -> bool:
    """Whether a refusal of `machine` holds for `other`, too."""
    if other.plan.provider != machine.plan.provider:
        return False
    if scope == "account":
        return True
    if machine.sight is None or other.sight is None:
        return False
    match scope:
        case "pool":
            return bool(machine.sight.pool) and other.sight.pool == machine.sight.pool
        case "quota":
            return bool(machine.sight.quota) and other.sight.quota == machine.sight.quota
        case _:
            return False


def _tried(turn: Turn, machine: Machine, wake_id: str | None, count: int) -> dict[str, int]:
    """The machine's starts by wake; wakes that are over are forgotten."""
    under_way = {wake.id for wake in turn.wakes.values()}
    kept = {wake: starts for wake, starts in machine.tried.items() if wake in under_way}
    return kept | {wake_id or "": max(0, count)}


def _others_untried(turn: Turn, machine: Machine) -> bool:
    """Whether the machine's wake has another that it has not tried yet."""
    return any(
        wake.id == machine.wake_id and has_untried(turn.fleet, wake.id, turn.plan.lineups[model], turn.now)
        for model, wake in turn.wakes.items()
    )


def _tell_probe(turn: Turn, machine: Machine) -> None:
    if machine.probe_code:
        turn.told(
            ProviderCall(
                at=turn.now, machine=machine.id, call="probe", outcome="failed", code=machine.probe_code, seconds=0.0
            )
        )


def _unprobed(turn: Turn) -> dict[str, Any]:
    """Nothing is known of the new engine: an answer of the one before proves nothing."""
    return {
        "reached": False,
        "probe_serial": None,
        "probe_after": turn.now,
        "probe_failures": 0,
        "probe_code": "",
    }
