"""`spotinference wake`, `hibernate`, `cordon`, `uncordon`: the operator's word to the leading waker."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import click
from rich.text import Text

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus
from shared.bus.subjects import WAKER_COMMAND
from shared.bus.topology import FLEET
from shared.bus.view import View
from shared.config.values import Duration
from shared.errors import BusUnavailable, Rejected
from shared.fleet_records import check_machine
from shared.messages.waker import CommandKind, MachineRecord, MachineState, WakerCommand, WakerReply
from spotinference.bucket_reader import started
from spotinference.context import Context, ask, operator
from spotinference.terminal import Screen, echo_json, say
from spotinference.times import span

F = TypeVar("F", bound=Callable[..., Any])

REPLY_SECONDS = 5.0
SETTLE_SECONDS = 2.0
"""Within this the records show what an accepted order set going; until then they may be from before it."""
REDRAW_SECONDS = 1.0
NEAREST: Sequence[MachineState] = ("ready", "waking", "draining", "falling_asleep", "asleep", "broken", "gone")
"""Of a model's machines the one that is nearest to serving is told of."""
DONE: Mapping[CommandKind, MachineState] = {"wake": "ready", "hibernate": "asleep"}
BEGUN: Mapping[CommandKind, Callable[[MachineRecord], bool]] = {
    "wake": lambda record: record.state in ("waking", "ready"),
    "hibernate": lambda record: record.state in ("draining", "falling_asleep", "asleep"),
    "cordon": lambda record: record.cordoned,
    "uncordon": lambda record: not record.cordoned,
}


class Span(click.ParamType[float]):
    """Seconds, written as a duration."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return Duration.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _waits(command: F) -> F:
    bound = "The longest that --wait waits, such as 8m.  [default: wake_cap of the waker's [waker]]"
    command = click.option("--timeout", type=Span(), help=bound)(command)
    return click.option("--wait", is_flag=True, help="Return when it is done, with status 1 when it fails.")(command)


def _json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object.")(command)


def _bound(timeout: float | None, *, wait: bool) -> float | None:
    """How many seconds to wait until it is done: infinite for as long as a wake may last; None: not at all."""
    if wait:
        return math.inf if timeout is None else timeout
    if timeout is not None:
        raise click.UsageError("--timeout bounds --wait: give both, or neither")
    return None


def _give(context: Context, order: CommandKind, target: str, bound: float | None, *, as_json: bool) -> None:
    """The waker says whom the order is about: its configuration counts, and the one here may know less."""

    async def work(bus: JetStreamBus) -> MachineRecord | None:
        watched = Watched(order)
        try:
            await started(watched.records, bus)
            reply = await _ordered(bus, order, target)
            watched.machines = reply.machines
            return await (
                watched.begun() if bound is None else watched.done(reply.wake_cap if bound == math.inf else bound)
            )
        finally:
            await watched.records.stop()

    record = context.on_bus(work)
    machine = record.machine if record else target if order != "wake" else None
    if as_json:
        echo_json({"accepted": True, "machine": machine, "state": record.state if record else None})
    else:
        state = f": {_said(record)}" if record else ""
        say(f"accepted: {order} {target}{state}")


async def _ordered(bus: Bus, order: CommandKind, target: str) -> WakerReply:
    """Returns when the leading waker has it on record. It says what is wanted, so that saying it twice does no harm."""
    command = WakerCommand(order=order, target=target, by=operator())
    try:
        reply = await ask(bus, WAKER_COMMAND, command, WakerReply, timeout=REPLY_SECONDS)
    except BusUnavailable as error:
        raise BusUnavailable(f"no waker leads the fleet and takes orders now: {error}") from error
    if not reply.accepted:
        raise Rejected(reply.error or f"the waker refused {order} {target} and gave no reason")
    return reply


class Watched:
    """The fleet's records, watched from before an order is given; `machines`, once known, are whom it is about."""

    def __init__(self, order: CommandKind) -> None:
        self.records = View(FLEET, MachineRecord, self._on_change, check=check_machine)
        self.machines: Sequence[str] = ()
        self._order = order
        self._showed: set[str] = set()
        """Machines whose records have shown the order, were it for a moment."""
        self._changed = asyncio.Event()

    def _on_change(self, machine: str) -> None:
        record = self.records.get(machine)
        if record is not None and BEGUN[self._order](record):
            self._showed.add(machine)
        self._changed.set()

    @property
    def _begun(self) -> bool:
        return not self._showed.isdisjoint(self.machines)

    def nearest(self) -> MachineRecord | None:
        """Of the machines the one that serves, or will soonest; a cordoned one last."""
        found = [record for machine in self.machines if (record := self.records.get(machine)) is not None]
        return min(found, key=lambda r: (r.cordoned, NEAREST.index(r.state)), default=None)

    async def begun(self) -> MachineRecord | None:
        """The record once it shows the order, or as it is then."""
        deadline = time.monotonic() + (SETTLE_SECONDS if self.machines else 0.0)
        while True:
            record = self.nearest()
            left = deadline - time.monotonic()
            if left <= 0 or (record is not None and BEGUN[self._order](record)):
                return record
            await self._news(left)

    async def done(self, bound: float) -> MachineRecord:
        """The record when the order is done; `Rejected` when it will not be, or is not within `bound` seconds."""
        given_at = time.monotonic()
        goal = DONE[self._order]
        with Screen(stderr=True).status("") as progress:
            while True:
                record = self.nearest()
                if record is not None and record.state == goal:
                    return record
                waited = time.monotonic() - given_at
                if self._begun or waited > SETTLE_SECONDS:
                    self._go_on(record)
                if waited >= bound:
                    raise Rejected(f"not {goal} within {bound:g} s, the order stands: {_said(record)}")
                progress.update(Text(_said(record)))
                await self._news(min(REDRAW_SECONDS, bound - waited))

    def _go_on(self, record: MachineRecord | None) -> None:
        """`Rejected` where waiting longer leads nowhere."""
        if record is None:
            raise Rejected("none of its machines is on record: has the waker another configuration?")
        if record.state in ("broken", "gone"):
            raise Rejected(_said(record))
        if self._order == "wake" and record.cordoned:
            raise Rejected(f"{_said(record)}; cordoned: `spotinference uncordon {record.machine}` lets it be woken")
        if self._order == "hibernate" and self._begun and record.state in ("ready", "waking"):
            raise Rejected(f"it is needed again: {_said(record)}")

    async def _news(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()


def _said(record: MachineRecord | None) -> str:
    """A record in a line."""
    if record is None:
        return "no machine on record"
    told = f"{record.machine} is {record.state.replace('_', ' ')}"
    if record.phase is not None:
        told += f", {record.phase.replace('_', ' ')}"
        if record.ready_at is not None:
            told += f", ready in about {span(max(0, round(record.ready_at - time.time())))}"
    if cause := record.alarm or record.reason:
        told += f": {cause}"
    return told
