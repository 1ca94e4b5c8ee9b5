"""What a provider sees, taken over: it is right, whatever we thought."""

from dataclasses import replace

from services.waker.core import sleeping, waking
from services.waker.core.events import Looked, Sight, Stray, Tested
from services.waker.core.fleet_spec import MachinePlan
from services.waker.core.policy import mates
from services.waker.core.state import Account, Machine
from services.waker.core.step import Turn

AWAKE = "it is not put to sleep, since its provider's self-test failed: "
ALARM_LENGTH = 500
GONE_SECONDS = 60.0
"""A provider may forget a machine for a moment: only then it is gone. One that was never seen is at once."""


def looked(turn: Turn, event: Looked) -> None:
    account = turn.accounts.get(event.provider, Account())
    if event.asked_at >= account.asked_at:
        account = replace(account, looking=False)
    turn.accounts[event.provider] = replace(account, fault=event.fault)
    if event.fault:
        return
    turn.accounts[event.provider] = replace(
        account, fault="", looked_at=max(account.looked_at, min(event.asked_at, turn.now))
    )
    for name, sight in event.sights.items():
        machine = turn.machines.get(name)
        if machine is not None and _says_something(turn, machine, sight, event.asked_at):
            look(turn, turn.set(machine, seen_at=event.asked_at), sight)
    for stray in event.strays:
        _stray(turn, stray, event.asked_at)
    listed = {stray.id for stray in event.strays}
    for machine in list(turn.machines.values()):
        if not machine.plan.configured and machine.plan.provider == event.provider and machine.id not in listed:
            look(turn, machine, Sight(power="gone", provider_state="not listed"))


def _says_something(turn: Turn, machine: Machine, sight: Sight, asked_at: float) -> bool:
    """A look from before the last call, or too soon after it to show what that did, proves nothing."""
    if machine.call is not None or asked_at <= max(machine.called_at, machine.seen_at):
        return False
    # For a new leader, a machine that was being woken is one that was off.
    unchanged = sight.power == machine.sight.power if machine.sight else not sight.running
    settle = turn.plan.account(machine.plan).settle
    if settle and unchanged and machine.state in ("waking", "falling_asleep"):
        return asked_at - machine.called_at > settle
    return asked_at > machine.since or machine.sight is None


def look(turn: Turn, machine: Machine, sight: Sight) -> None:
    """One machine, as its provider sees it."""
    machine = turn.set(machine, sight=sight)
    if sight.power == "gone":
        _gone(turn, machine, sight)
        return
    machine = turn.set(machine, gone_since=None)
    match machine.state:
        case "waking":
            waking.seen(turn, machine, sight)
        case "ready" | "draining":
            _awake(turn, machine, sight)
        case "falling_asleep" | "broken":
            sleeping.seen(turn, machine, sight)
        case "asleep" | "gone" | None:
            _asleep(turn, machine, sight)


def _awake(turn: Turn, machine: Machine, sight: Sight) -> None:
    other = sight.generation is not None and sight.generation != machine.generation
    if sight.power == "halted":
        _halted(turn, machine)
    elif sight.power != "up" or other:
        turn.move(machine, "asleep", sight.reason or _unexpected(sight), at=sight.ended_at)
    elif sight.leaving and machine.state == "ready":
        turn.move(machine, "draining", f"its provider takes it away: {sight.leaving}")


def _unexpected(sight: Sight) -> str:
    return f"its provider says {sight.provider_state}, which is not our doing"


def _asleep(turn: Turn, machine: Machine, sight: Sight) -> None:
    if sight.power in ("rising", "up"):
        mate = next((m for m in mates(turn.fleet, machine) if m.state in ("waking", "ready", "draining")), None)
        if mate is not None and machine.state != "gone":
            _beside(turn, machine, mate)
        else:
            waking.take_over(turn, machine, sight)
    elif sight.power == "halted" and machine.state != "gone":
        _halted(turn, machine)
    elif machine.state is None:
        turn.move(machine, "asleep", "seen for the first time")
    elif machine.state == "gone":
        turn.move(machine, "asleep", "its provider knows it again")


def _beside(turn: Turn, machine: Machine, mate: Machine) -> None:
    """It runs without our doing, on GPUs that another has."""
    machine = turn.move(machine, "broken", f"it runs while {mate.id} has the GPUs of their pair")
    sleeping.fall(turn, machine, f"{mate.id} has the GPUs of their pair")


def _halted(turn: Turn, machine: Machine) -> None:
    """Off, and billed in full: put to sleep properly at once."""
    machine = turn.move(machine, "broken", "it is off and billed in full")
    sleeping.fall(turn, machine, "off and billed in full: it has to come up to be hibernated")


def _gone(turn: Turn, machine: Machine, sight: Sight) -> None:
    since = turn.now if machine.gone_since is None else machine.gone_since
    turn.set(machine, gone_since=since)
    never_seen = machine.state is None
    if machine.state != "gone" and (never_seen or turn.now - since >= GONE_SECONDS):
        reason = sight.reason or "its provider does not know it"
        turn.move(machine, "gone", reason, alarm=f"{reason}: mend or remove its `instance`", call=None)


def _stray(turn: Turn, stray: Stray, asked_at: float) -> None:
    """It carries our mark and nobody configured it: it may bill, and nobody uses it."""
    machine = turn.machines.get(stray.id)
    if machine is None:
        if stray.sight.power in ("off", "falling", "failed", "gone"):
            return
        plan = MachinePlan(
            id=stray.id,
            tier="",
            provider=stray.provider,
            room=0,
            models=(),
            served_as="",
            endpoint=None,
            configured=False,
        )
        machine = turn.set(Machine(plan=plan, since=turn.now, sight=stray.sight, seen_at=asked_at))
        machine = turn.move(machine, "broken", "it carries the fleet's mark and is not configured")
        sleeping.fall(turn, machine, "it carries the fleet's mark and is not configured")
    elif not _says_something(turn, machine, stray.sight, asked_at):
        return
    elif machine.state in ("asleep", "gone") and stray.sight.power in ("rising", "up", "halted"):
        machine = turn.set(machine, sight=stray.sight, seen_at=asked_at, gone_since=None)
        if machine.state == "gone":
            machine = turn.move(machine, "asleep", "its provider knows it again")
        machine = turn.move(machine, "broken", "it runs again, and is not configured")
        sleeping.fall(turn, machine, "it runs again, and is not configured")
    else:
        look(turn, turn.set(machine, seen_at=asked_at), stray.sight)


def tested(turn: Turn, event: Tested) -> None:
    account = turn.accounts.get(event.provider, Account())
    turn.accounts[event.provider] = replace(account, testing=False, tested=not event.faults, test_faults=event.faults)
    alarm = f"{AWAKE}{'; '.join(event.faults)}"[:ALARM_LENGTH] if event.faults else ""
    for machine in list(turn.machines.values()):
        if machine.plan.provider == event.provider and (not machine.alarm or machine.alarm.startswith(AWAKE)):
            turn.set(machine, alarm=alarm)
