"""The command `meter`."""

from datetime import UTC, datetime

import click
from rich.progress import Progress

from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import METER_REREAD
from shared.messages.meter import Reread, RereadQuery
from spotinference.context import Context, suite_options
from spotinference.terminal import Screen, echo_json, print_line
from spotinference.times import parse_time

MAX_TIME = datetime(2200, 1, 1, tzinfo=UTC).timestamp()
"""The bus counts nanoseconds in 64 bits, which end in 2262."""
SUMS = ("read", "counted", "repeated", "quarantined")


@click.group()
def meter() -> None:
    """Maintain the ledger."""


@meter.command()
@click.option("--since", required=True, help="RFC 3339 time, for example 2026-11-23 or 2026-11-23T12:00:00Z.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def reread(context: Context, *, since: str, as_json: bool) -> None:
    """Read the usage stream again from a time on, and count the events that the ledger lacks.

    The meter does this by itself after its ledger was restored from an older copy.
    """
    start = _start_time(since)
    sums = context.run_with_bus(lambda bus: _reread(bus, start))
    if as_json:
        echo_json({"since": since, **sums})
    else:
        print_line(
            f"read {sums['read']:,} messages again: {sums['counted']:,} were missing and have been counted, "
            f"{sums['repeated']:,} were in the ledger already, {sums['quarantined']:,} cannot be counted"
        )


async def _reread(bus: Bus, since: float) -> dict[str, int]:
    sums = dict.fromkeys(SUMS, 0)
    console = Screen(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading the stream", total=None)
        page = await request_reply(bus, METER_REREAD, RereadQuery(since=since), Reread)
        first, end = page.last - page.read, page.end
        while True:
            for name in SUMS:
                sums[name] += getattr(page, name)
            bar.update(task, total=max(1, end - first), completed=page.last - first)
            if page.last >= end:
                return sums
            page = await request_reply(bus, METER_REREAD, RereadQuery(since=since, after=page.last), Reread)


def _start_time(text: str) -> float:
    try:
        seconds = parse_time(text)
    except ValueError:
        raise click.UsageError(f"--since: expected a time such as 2026-11-23T12:00:00Z, got {text!r}") from None
    if not 0 <= seconds < MAX_TIME:
        raise click.UsageError(f"--since: expected a time from 1970-01-01 until the end of 2199, got {text!r}")
    return seconds
