"""From ready to asleep: the drain in two steps, the stop that is asked again, and what to do with what will not end."""

from typing import Any

from services.waker.core import key_wakes
from services.waker.core.events import Called, Sight
from services.waker.core.policy import demands, drained, in_flight, keys_of, trusted, unseen, wanted
from services.waker.core.state import Machine
from services.waker.core.step import Turn

DRAIN_SECONDS = 60.0
"""A gateway that is alive and does not let go within this keeps the machine awake."""
STOP_RETRY_SECONDS = 1.0
STOP_LIMIT = 3
RISE_SECONDS = 300.0
"""What comes up while it is to sleep can only be stopped when it is there; longer than that it is asked anyway."""
BROKEN_SECONDS = 60.0
"""Between two attempts to put a broken machine to sleep."""
BOUNCE_SECONDS = 1.0


def drain(turn: Turn, machine: Machine) -> None:
    """Back to ready, or on to sleep, once that is certain."""
    fleet = turn.fleet
    if not machine.lost:
        if in_flight(fleet, machine.id) or machine.last_used > machine.since:
            turn.move(machine, "ready", "used while it drained")
            return
        if wanted(fleet, machine):
            machine = turn.move(machine, "ready", "wanted while it drained")
            key_wakes.claim(turn, machine, keys_of(fleet, demands(fleet, machine.plan.models)))
            return
        if fault := unseen(fleet, machine):
            turn.move(machine, "ready", f"its provider cannot be seen: {fault}")
            return
    empty = drained(fleet, machine, turn.now)
    if empty and (machine.lost or trusted(fleet, machine, turn.now)):
        if machine.plan.sleeps:
            fall(turn, machine, machine.reason)
    elif turn.now - machine.since > DRAIN_SECONDS and not machine.lost:
        who = "its provider was not tested or seen" if empty else "a gateway did not let go of it"
        turn.move(machine, "ready", f"{who} within {DRAIN_SECONDS:g} s")


def fall(turn: Turn, machine: Machine, reason: str, **changes: Any) -> None:
    """The provider is asked to put it to sleep. A start under way is awaited: a stop that overtook it would be lost."""
    machine = turn.move(machine, "falling_asleep", reason, stops=0, stop_after=turn.now, **changes)
    if machine.call is None:
        turn.call(machine, "stop")


def called(turn: Turn, machine: Machine, event: Called) -> None:
    """The outcome of a stop. Whatever it was, the next look says whether it is so."""
    account = turn.plan.account(machine.plan)
    if event.outcome == "accepted":
        turn.set(machine, stop_after=turn.now + account.stuck)
    elif event.outcome == "refused" and event.scope == "busy":
        # Its state was changing; that is no failed attempt.
        turn.set(machine, stops=max(0, machine.stops - 1), stop_after=turn.now + max(account.look_fast, 1.0))
    else:
        alarm = event.reason or event.code if event.outcome == "refused" else machine.alarm
        turn.set(machine, stop_after=turn.now + max(account.look_fast, STOP_RETRY_SECONDS), alarm=alarm)


def advance(turn: Turn, machine: Machine) -> None:
    """Ask again when it is time, at most so often."""
    if machine.call is not None or turn.now < machine.stop_after:
        return
    rising = machine.sight is not None and machine.sight.power == "rising"
    if rising and turn.now - machine.since < RISE_SECONDS:
        return
    if machine.stops < STOP_LIMIT:
        turn.call(machine, "stop")
        return
    reason = f"it still runs after {STOP_LIMIT} attempts to end it"
    if machine.alarm:
        reason = f"{reason}: {machine.alarm}"
    turn.move(machine, "broken", reason, alarm=reason)


def seen(turn: Turn, machine: Machine, sight: Sight) -> None:
    """The provider's view of a machine that is to sleep, or is broken."""
    if sight.power in ("off", "failed"):
        # The reason stays: it says why it sleeps.
        alarm = f"its provider says {sight.provider_state}" if sight.power == "failed" else ""
        turn.move(machine, "asleep", machine.reason, at=sight.ended_at, stops=0, alarm=alarm)
        return
    if machine.state != "falling_asleep":
        return
    account = turn.plan.account(machine.plan)
    if sight.power == "falling" and not machine.stops:
        # Somebody has asked already, as the leader before us: a second word would be one of force.
        turn.set(machine, stops=1, stop_after=turn.now + account.stuck)
    elif sight.power in ("up", "halted") and account.settle:
        # It bounced back, or has come up meanwhile: no use in waiting until it counts as stuck.
        turn.set(machine, stop_after=min(machine.stop_after, turn.now + BOUNCE_SECONDS))


def mend(turn: Turn, machine: Machine) -> None:
    """A broken machine is tried again: it may bill."""
    if machine.plan.sleeps and turn.now - machine.since >= BROKEN_SECONDS:
        fall(turn, machine, "tried again to put it to sleep")
