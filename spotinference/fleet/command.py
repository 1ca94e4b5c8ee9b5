"""The command `fleet`."""

import asyncio
from contextlib import suppress

import click
from rich.live import Live

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus
from shared.fleet_rows import MachineRow, without_clock_fields
from spotinference.context import Context, suite_options
from spotinference.fleet.view import fleet_table
from spotinference.fleet.watcher import watch_fleet
from spotinference.terminal import Screen, echo_json

LISTEN_SECONDS = 2.2
"""Gateways report their activity every 2 s: within this time each has reported once."""
REDRAW_SECONDS = 1.0
"""So that ETAs count down."""
PAUSE_SECONDS = 0.1
"""Between two drawings, at least."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --watch, one per change.")
@click.option("--watch", is_flag=True, help="Keep showing changes until Ctrl-C.")
@suite_options
def fleet(context: Context, *, as_json: bool, watch: bool) -> None:
    """Show the machines: state, phase, ETA, requests in flight."""
    if watch:
        with suppress(KeyboardInterrupt):
            context.run_with_bus(_stream_json if as_json else _draw)
        return
    machines = context.run_with_bus(_read_once)
    if as_json:
        echo_json({"machines": machines})
    else:
        Screen().print(fleet_table(machines))


async def _read_once(bus: JetStreamBus) -> list[MachineRow]:
    async with watch_fleet(bus) as watcher:
        await asyncio.sleep(LISTEN_SECONDS)
        return watcher.rows()


async def _draw(bus: JetStreamBus) -> None:
    """Draw the fleet on the terminal, forever."""
    async with watch_fleet(bus) as watcher:
        with Live(auto_refresh=False) as live:
            while True:
                live.update(fleet_table(watcher.rows(), _stale_note(bus)), refresh=True)
                await watcher.wait_for_change(REDRAW_SECONDS)
                await asyncio.sleep(PAUSE_SECONDS)


def _stale_note(bus: Bus) -> str | None:
    return None if bus.connected else "the bus does not answer: this is the last known state"


async def _stream_json(bus: JetStreamBus) -> None:
    """Print the whole fleet as one line of JSON, and again at each change, forever."""
    async with watch_fleet(bus) as watcher:
        await asyncio.sleep(LISTEN_SECONDS)
        last: list[MachineRow] | None = None
        while True:
            machines = watcher.rows()
            if without_clock_fields(machines) != last:
                last = without_clock_fields(machines)
                echo_json({"machines": machines})
            await watcher.wait_for_change(REDRAW_SECONDS)
