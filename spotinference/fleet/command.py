"""`spotinference fleet`: the machines as they are now, or as they change."""

import asyncio
from contextlib import suppress

import click
from rich.live import Live

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus
from spotinference.context import Context, suite_options
from spotinference.fleet.view import Row, fleet_table, without_clock_fields
from spotinference.fleet.watcher import watch_fleet
from spotinference.terminal import Screen, echo_json

LISTEN_SECONDS = 2.2
"""Gateways tell their activity every 2 s: within this each has spoken once."""
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
            context.run_with_bus(_stream_json if as_json else _draw)
        return
    machines = context.run_with_bus(_read_once)
    if as_json:
        echo_json({"machines": machines})
    else:
        Screen().print(fleet_table(machines))


async def _read_once(bus: JetStreamBus) -> list[Row]:
    async with watch_fleet(bus) as current:
        await asyncio.sleep(LISTEN_SECONDS)
        return current.machine_rows()


async def _draw(bus: JetStreamBus) -> None:
    """For ever, on the terminal."""
    async with watch_fleet(bus) as current:
        with Live(auto_refresh=False) as live:
            while True:
                live.update(fleet_table(current.machine_rows(), _stale_note(bus)), refresh=True)
                await current.wait_for_change(REDRAW_SECONDS)
                await asyncio.sleep(PAUSE_SECONDS)


def _stale_note(bus: Bus) -> str:
    return "" if bus.connected else "the bus does not answer: this is how the fleet was"


async def _stream_json(bus: JetStreamBus) -> None:
    """For ever, one JSON object a line: the whole fleet, then again at each change of it."""
    async with watch_fleet(bus) as current:
        await asyncio.sleep(LISTEN_SECONDS)
        last: list[Row] | None = None
        while True:
            machines = current.machine_rows()
            if without_clock_fields(machines) != last:
                last = without_clock_fields(machines)
                echo_json({"machines": machines})
            await current.wait_for_change(REDRAW_SECONDS)
