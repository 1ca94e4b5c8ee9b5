"""A wake: from asleep to ready, over restarts, within its deadline, or back to sleep."""

from typing import Any

from services.waker.core.events import Probed, Sight
from services.waker.core.policy import cool_down, starts
from services.waker.core.state import Machine, Wake
from services.waker.core.turn import Turn
from shared.messages.waker import ProviderCall

FAST_LOOK_SECONDS = 0.25


def begin(turn: Turn, machine: Machine, wake: Wake, model: str) -> None:
    """Start a machine that sleeps."""
    machine = turn.move(
        machine,
        "waking",
        f"requests wait for {model}",
        generation=machine.generation + 1,
        wake_id=wake.id,
        key_id=wake.key_id or None,
        deadline=wake.deadline,
        tried=(wake.id, starts(machine, wake.id) + 1),
        stops=0,
        **_unprobed(turn),
    )
    turn.call(turn.enter(machine, "calling"), "start")


def take_over(turn: Turn, machine: Machine, sight: Sight) -> None:
    """An engine runs that we did not start: one token will show what it is worth."""
    wake_id = turn.plan.new_id(turn.now)
    machine = turn.move(
        machine,
        "waking",
        "an engine that was running is taken over",
        generation=sight.generation,
        endpoint=sight.endpoint,
        wake_id=wake_id,
        key_id=None,
        deadline=turn.now + turn.plan.wake_cap,
        tried=(wake_id, 1),
        stops=0,
        **_unprobed(turn),
    )
    turn.enter(machine, "calling" if sight.endpoint is None else "loading")


def advance(turn: Turn, machine: Machine) -> None:
    """What a wake under way needs now."""
    if turn.now >= machine.deadline:
        seconds = turn.now - machine.since
        last = f"; the last probe said {machine.probe_code}" if machine.probe_code else ""
        fail(turn, machine, f"not ready within the wake's deadline, after {seconds:.1f} s{last}", running=True)
        return
    if machine.phase != "calling":
        turn.probe(machine)
    turn.look(turn.machines[machine.id], FAST_LOOK_SECONDS)


def seen(turn: Turn, machine: Machine, sight: Sight) -> None:
    """The provider's view of a waking machine while no call is under way."""
    if not sight.running:
        died(turn, machine, sight)
    elif not sight.ending and sight.endpoint is not None:
        started(turn, turn.set(machine, generation=sight.generation), sight.endpoint)


def started(turn: Turn, machine: Machine, endpoint: str) -> None:
    """The engine's process runs."""
    if machine.phase == "calling":
        turn.enter(turn.set(machine, endpoint=endpoint, **_unprobed(turn)), "loading")


def died(turn: Turn, machine: Machine, sight: Sight) -> None:
    """Start the engine again within the limit, else give up."""
    reason = sight.reason or "the engine did not start"
    count = starts(machine, machine.wake_id)
    if count >= turn.plan.restart_limit:
        fail(turn, machine, f"{reason}; started {count} times in this wake, which is the limit", running=False)
        return
    machine = turn.set(
        machine,
        reason=f"{reason}; started again",
        generation=max(machine.generation, sight.generation) + 1,
        tried=(machine.wake_id, count + 1),
        phase=None,
        endpoint=None,
        **_unprobed(turn),
    )
    turn.call(turn.enter(machine, "calling"), "start")


def probed(turn: Turn, machine: Machine, event: Probed) -> None:
    """A probe's answer while waking: the first token makes it ready."""
    if not event.answered:
        failures = machine.probe_failures + 1
        after = turn.now + turn.plan.probe_interval
        turn.set(machine, probe_failures=failures, probe_code=event.code, probe_after=after)
    elif event.step == "reach":
        machine = turn.set(machine, reached=True, probe_after=turn.now)
        turn.enter(machine, "first_token")
    else:
        answered(turn, machine, event)


def answered(turn: Turn, machine: Machine, event: Probed) -> None:
    """One token came: ready."""
    turn.told(_probe_call(turn, machine, event))
    turn.remember(machine)
    turn.move(machine, "ready", "the engine answered one token", failures=0, cool_until=0.0, probe_failures=0)


def fail(turn: Turn, machine: Machine, reason: str, *, running: bool) -> None:
    """The wake is over for this machine: it is put to sleep and left alone for a while."""
    if machine.probe_code:
        turn.told(
            ProviderCall(
                at=turn.now, machine=machine.id, call="probe", outcome="failed", code=machine.probe_code, seconds=0.0
            )
        )
    if machine.call is not None:
        seconds = turn.now - machine.call.sent_at
        turn.told(
            ProviderCall(
                at=turn.now, machine=machine.id, call="start", outcome="unknown", code="deadline", seconds=seconds
            )
        )
    failures = machine.failures + 1
    left_alone = {"failures": failures, "cool_until": turn.now + cool_down(failures)}
    if running:
        turn.call(turn.move(machine, "falling_asleep", reason, call=None, stops=0, **left_alone), "stop")
    else:
        turn.move(machine, "asleep", reason, call=None, **left_alone)


def _probe_call(turn: Turn, machine: Machine, event: Probed) -> ProviderCall:
    return ProviderCall(
        at=turn.now,
        machine=machine.id,
        call="probe",
        outcome="accepted",
        code="",
        seconds=event.seconds,
        tokens=event.tokens,
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
