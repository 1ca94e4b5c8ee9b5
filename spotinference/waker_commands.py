"""What `wake`, `hibernate`, `cordon` and `uncordon` share: send a command to the waker and follow its effect."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import click
from rich.text import Text

from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import WAKER_COMMAND
from shared.bus.topology import FLEET
from shared.bus.view import View
from shared.config.values import Duration
from shared.errors import BusUnavailable, Rejected
from shared.fleet_records import check_machine
from shared.messages.waker import CommandKind, MachineRecord, MachineState, WakerCommand, WakerReply
from spotinference.bucket_reader import start_view
from spotinference.context import Context, operator_identity
from spotinference.terminal import Screen, echo_json, print_line
from spotinference.times import format_duration

F = TypeVar("F", bound=Callable[..., Any])

REPLY_SECONDS = 5.0
SETTLE_SECONDS = 2.0
"""The records show the effect of an accepted command within this; until then they may be older than the command."""
REDRAW_SECONDS = 1.0
PREFERENCE: Sequence[MachineState] = ("ready", "waking", "draining", "falling_asleep", "asleep", "broken", "gone")
"""The machine of a model that is nearest to serving is reported: the first state in this order."""
GOALS: Mapping[CommandKind, MachineState] = {"wake": "ready", "hibernate": "asleep"}
HAS_STARTED: Mapping[CommandKind, Callable[[MachineRecord], bool]] = {
    "wake": lambda record: record.state in ("waking", "ready"),
    "hibernate": lambda record: record.state in ("draining", "falling_asleep", "asleep"),
    "cordon": lambda record: record.cordoned,
    "uncordon": lambda record: not record.cordoned,
}


class DurationParam(click.ParamType[float]):
    """Seconds, written as a duration."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return Duration.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def wait_options(command: F) -> F:
    """Add `--wait` and `--timeout`."""
    limit = "How long --wait waits, for example 8m.  [default: wake_cap in the waker's [waker] section]"
    command = click.option("--timeout", type=DurationParam(), help=limit)(command)
    done = "Return when the machine is in its new state; exit with status 1 if it does not get there."
    return click.option("--wait", is_flag=True, help=done)(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def wait_limit(timeout: float | None, *, wait: bool) -> float | None:
    """Seconds to wait for the new state: infinity means the waker's `wake_cap`, None means do not wait."""
    if wait:
        return math.inf if timeout is None else timeout
    if timeout is not None:
        raise click.UsageError("--timeout needs --wait")
    return None


def send_command(
    context: Context, order: CommandKind, target: str, limit_s: float | None, *, as_json: bool, force: bool = False
) -> None:
    """Send the command and print its effect.

    The waker's reply names the machines: its configuration counts, and the local one may know fewer.
    """
    record = context.run_with_bus(lambda bus: carry_out(bus, order, target, limit_s, force=force))
    machine = record.machine if record else target if order != "wake" else None
    if as_json:
        echo_json({"accepted": True, "machine": machine, "state": record.state if record else None})
    else:
        state = f": {describe(record)}" if record else ""
        print_line(f"accepted: {order} {target}{state}")


async def carry_out(
    bus: Bus, order: CommandKind, target: str, limit_s: float | None, *, force: bool = False
) -> MachineRecord | None:
    """Send the command, and wait for its effect as `wait_limit` says."""
    watcher = CommandWatcher(order)
    try:
        await start_view(watcher.records, bus)
        reply = await request_command(bus, order, target, force=force)
        watcher.machines = reply.machines
        if limit_s is None:
            return await watcher.wait_until_started()
        return await watcher.wait_until_done(reply.wake_cap if limit_s == math.inf else limit_s)
    finally:
        await watcher.records.stop()


async def request_command(
    bus: Bus, order: CommandKind, target: str, *, force: bool = False, is_machine: bool = False
) -> WakerReply:
    """Return once the leading waker has recorded the command. It states a goal, so repeating it does no harm."""
    command = WakerCommand(order=order, target=target, by=operator_identity(), force=force, is_machine=is_machine)
    try:
        reply = await request_reply(bus, WAKER_COMMAND, command, WakerReply, timeout=REPLY_SECONDS)
    except BusUnavailable as error:
        raise BusUnavailable(f"no leading waker accepts commands: {error}") from error
    if not reply.accepted:
        raise Rejected(reply.error or f"the waker rejected {order} {target} and gave no reason")
    return reply


class CommandWatcher:
    """The fleet's records, followed from before a command is sent. The waker's reply sets `machines`."""

    def __init__(self, order: CommandKind) -> None:
        self.records = View(FLEET, MachineRecord, self._on_change, check=check_machine)
        self.machines: Sequence[str] = ()
        self._order = order
        self._started: set[str] = set()
        """Machines whose records have shown the command's effect, if only for a moment."""
        self._changed = asyncio.Event()

    def _on_change(self, machine: str) -> None:
        record = self.records.get(machine)
        if record is not None and HAS_STARTED[self._order](record):
            self._started.add(machine)
        self._changed.set()

    @property
    def _has_started(self) -> bool:
        return not self._started.isdisjoint(self.machines)

    def nearest(self) -> MachineRecord | None:
        """Return the machine that serves, or will serve soonest; a cordoned one last."""
        records = [record for machine in self.machines if (record := self.records.get(machine)) is not None]
        return min(records, key=lambda r: (r.cordoned, PREFERENCE.index(r.state)), default=None)

    async def wait_until_started(self) -> MachineRecord | None:
        """Return the record once it shows the command's effect, or as it is after `SETTLE_SECONDS`."""
        deadline = time.monotonic() + (SETTLE_SECONDS if self.machines else 0.0)
        while True:
            record = self.nearest()
            left_s = deadline - time.monotonic()
            if left_s <= 0 or (record is not None and HAS_STARTED[self._order](record)):
                return record
            await self._wait_for_change(left_s)

    async def wait_until_done(self, limit_s: float) -> MachineRecord:
        """Return the record in its new state.

        Raises:
            Rejected: the machine cannot get there, or has not within `limit_s`.
        """
        began_at = time.monotonic()
        goal = GOALS[self._order]
        with Screen(stderr=True).status("") as progress:
            while True:
                record = self.nearest()
                if record is not None and record.state == goal:
                    return record
                waited_s = time.monotonic() - began_at
                if self._has_started or waited_s > SETTLE_SECONDS:
                    self._reject_if_hopeless(record)
                if waited_s >= limit_s:
                    raise Rejected(f"not {goal} within {limit_s:g} s, but still in progress: {describe(record)}")
                progress.update(Text(describe(record)))
                await self._wait_for_change(min(REDRAW_SECONDS, limit_s - waited_s))

    def _reject_if_hopeless(self, record: MachineRecord | None) -> None:
        """Raise `Rejected` if waiting longer cannot help."""
        if record is None:
            raise Rejected("none of its machines is on record: does the waker use another configuration?")
        if record.state in ("broken", "gone"):
            raise Rejected(describe(record))
        if self._order == "wake" and record.cordoned:
            raise Rejected(f"{describe(record)}; cordoned: run `spotinference uncordon {record.machine}` first")
        if self._order == "hibernate" and self._has_started and record.state in ("ready", "waking"):
            raise Rejected(f"requests need it again: {describe(record)}")

    async def _wait_for_change(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()


def describe(record: MachineRecord | None) -> str:
    """Describe a machine in one line."""
    if record is None:
        return "no machine on record"
    text = f"{record.machine} is {record.state.replace('_', ' ')}"
    if record.phase is not None:
        text += f", {record.phase.replace('_', ' ')}"
        if record.ready_at is not None:
            text += f", ready in about {format_duration(max(0, round(record.ready_at - time.time())))}"
    if cause := record.alarm or record.reason:
        text += f": {cause}"
    return text
