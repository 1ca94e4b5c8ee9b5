"""`spotinference fleet`: the machines as they are now, or as they change."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import click
from rich.live import Live

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus, Received
from shared.bus.subjects import ACTIVITIES
from shared.bus.topology import FLEET
from shared.bus.view import View
from shared.errors import BusUnavailable
from shared.fleet_records import check_machine
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import Activity
from shared.messages.waker import MachineRecord
from spotinference.context import BUS_SECONDS, Context, suite_options
from spotinference.fleet.view import Row, rows, unclocked, uses_of, view
from spotinference.terminal import Screen, echo_json

LISTEN_SECONDS = 2.2
"""Gateways tell their activity every 2 s: within this each has spoken once."""
SILENT_SECONDS = 10.0
"""A gateway that was not heard for this long has gone, as the waker has it."""
REDRAW_SECONDS = 1.0
"""ETAs count down."""
PAUSE_SECONDS = 0.1
"""Between two drawings: no eye sees more."""


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object with a list of machines; with --watch a line each."
)
@click.option("--watch", is_flag=True, help="Go on, and tell each change. Ctrl-C ends it.")
@suite_options
def fleet(context: Context, *, as_json: bool, watch: bool) -> None:
    """The machines: state, phase, ETA, requests in flight."""
    if watch:
        with suppress(KeyboardInterrupt):
            context.on_bus(_told if as_json else _drawn)
        return
    machines = context.on_bus(_once)
    if as_json:
        echo_json({"machines": machines})
    else:
        Screen().print(view(machines))


class Fleet:
    """The records and what gateways do with the machines, kept current. `changed` is set by each news of them."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.records = View(FLEET, MachineRecord, self._on_change, check=check_machine)
        self._heard: dict[str, tuple[Activity, float]] = {}

    def rows(self) -> list[Row]:
        patience = time.monotonic() - SILENT_SECONDS
        activities = [activity for activity, at in self._heard.values() if at > patience]
        return rows(self.records.values(), uses_of(activities), time.time())

    async def news(self, seconds: float) -> None:
        """Returns at the next change, at the latest after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        self.changed.clear()

    async def on_activity(self, received: Received) -> None:
        with suppress(Unreadable):  # it is the gateway's fault, and the waker logs it
            activity = decode(received.data, Activity)
            if activity.leaving:
                self._heard.pop(activity.gateway, None)
            else:
                self._heard[activity.gateway] = (activity, time.monotonic())
            self.changed.set()

    def _on_change(self, machine: str) -> None:
        del machine
        self.changed.set()


@asynccontextmanager
async def followed(bus: Bus) -> AsyncIterator[Fleet]:
    """The fleet as it stands, then kept current. `BusUnavailable` where the bucket cannot be read."""
    current = Fleet()
    listening = await bus.subscribe(ACTIVITIES, current.on_activity)
    try:
        await started(current.records, bus)
        yield current
    finally:
        await current.records.stop()
        await listening.stop()


async def started(records: View[MachineRecord], bus: Bus) -> None:
    try:
        async with asyncio.timeout(BUS_SECONDS):
            await records.start(bus)
    except TimeoutError:
        raise BusUnavailable(f"the bus did not tell its bucket {FLEET.name!r} within {BUS_SECONDS:g} s") from None


async def _once(bus: JetStreamBus) -> list[Row]:
    async with followed(bus) as current:
        await asyncio.sleep(LISTEN_SECONDS)
        return current.rows()


async def _drawn(bus: JetStreamBus) -> None:
    """For ever, on the terminal."""
    async with followed(bus) as current:
        with Live(auto_refresh=False) as live:
            while True:
                live.update(view(current.rows(), _doubt(bus)), refresh=True)
                await current.news(REDRAW_SECONDS)
                await asyncio.sleep(PAUSE_SECONDS)


def _doubt(bus: Bus) -> str:
    return "" if bus.connected else "the bus does not answer: this is how the fleet was"


async def _told(bus: JetStreamBus) -> None:
    """For ever, one JSON object a line: the whole fleet, then again at each change of it."""
    async with followed(bus) as current:
        await asyncio.sleep(LISTEN_SECONDS)
        last: list[Row] | None = None
        while True:
            machines = current.rows()
            if unclocked(machines) != last:
                last = unclocked(machines)
                echo_json({"machines": machines})
            await current.news(REDRAW_SECONDS)
