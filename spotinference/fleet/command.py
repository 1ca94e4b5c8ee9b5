"""`spotinference fleet`: the machines as they are now, or as they change."""

import asyncio
from contextlib import suppress

import click
from rich.live import Live

from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Bus
from spotinference.context import Context, suite_options
from spotinference.fleet.view import Row, unclocked, view
from spotinference.fleet.watcher import followed
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
            context.on_bus(_told if as_json else _drawn)
        return
    machines = context.on_bus(_once)
    if as_json:
        echo_json({"machines": machines})
    else:
        Screen().print(view(machines))


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
