"""The command `gaps`."""

import click

from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import METER_GAPS, METER_LOST, METER_RECOUNT
from shared.messages.meter import DeclareLost, Gaps, GapsQuery, Recounted, RecountQuery
from spotinference.context import Context, suite_options
from spotinference.gaps.view import gaps_json, print_gaps
from spotinference.terminal import Screen, echo_json, print_line

REASONS = ("unreadable", "invalid", "future", "old", "unknown_key", "unknown_source")
"""As `spot_meter_quarantined_total` names them."""


@click.group()
def gaps() -> None:
    """List usage events that are missing, or declare them lost.

    A day is not complete while events of it are missing.
    """


@gaps.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def list_(context: Context, *, as_json: bool) -> None:
    """List the missing events and those declared lost."""
    reply = context.run_with_bus(lambda bus: request_reply(bus, METER_GAPS, GapsQuery(), Gaps))
    if as_json:
        echo_json(gaps_json(reply))
        return
    print_gaps(reply)


@gaps.command()
@click.argument("source")
@click.argument("first", type=click.IntRange(1))
@click.argument("last", type=click.IntRange(1))
@click.option("--by", required=True, help="Name of the person who declares the events lost.")
@click.option("--reason", required=True, help="Why the events will never arrive.")
@click.option("--json", "as_json", is_flag=True, help="Print what is left, as `list --json` does.")
@suite_options
def close(context: Context, *, source: str, first: int, last: int, by: str, reason: str, as_json: bool) -> None:
    """Declare the events FIRST to LAST of SOURCE lost. An event that arrives later is counted nevertheless."""
    order = DeclareLost(source=source, first=first, last=last, by=by, reason=reason)
    left = context.run_with_bus(lambda bus: request_reply(bus, METER_LOST, order, Gaps))
    if as_json:
        echo_json(gaps_json(left))
    else:
        print_line(f"declared {source} {first} to {last} lost; open gaps: {len(left.open)}")


@gaps.command()
@click.option("--reason", type=click.Choice(REASONS), help="Only messages that were quarantined for this reason.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def recount(context: Context, *, reason: str | None, as_json: bool) -> None:
    """Count quarantined messages that can be counted now, for example after a wrong clock was corrected.

    Each event is counted once. A message from the future is counted at the time when it arrived. Sealed days do not
    change.
    """
    sums = context.run_with_bus(lambda bus: _recount(bus, reason))
    if as_json:
        echo_json(sums)
    else:
        print_line(
            f"counted {sums['counted']:,} events; {sums['repeated']:,} were in the ledger already and "
            f"{sums['left']:,} still cannot be counted: see `spotinference gaps list`"
        )


async def _recount(bus: Bus, reason: str | None) -> dict[str, int]:
    sums = {"counted": 0, "repeated": 0, "left": 0}
    after: str | None = ""
    with Screen(stderr=True).status("recounting") as status:
        while after is not None:
            page = await request_reply(bus, METER_RECOUNT, RecountQuery(reason=reason, after=after), Recounted)
            sums = {name: count + getattr(page, name) for name, count in sums.items()}
            status.update(f"recounting: {sums['counted']:,} counted, {sums['left']:,} left")
            after = page.next
    return sums
