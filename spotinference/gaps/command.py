"""`spotinference gaps`: events that are missing in the ledger, and giving them up."""

import click

from shared.bus.ports import Bus
from shared.bus.subjects import METER_GAPS, METER_LOST, METER_RECOUNT
from shared.messages.meter import DeclareLost, Gaps, GapsQuery, Recounted, RecountQuery
from spotinference.context import Context, request_reply, suite_options
from spotinference.gaps.view import gaps_json, print_gaps
from spotinference.terminal import Screen, echo_json, print_line

REASONS = ("unreadable", "invalid", "future", "old", "unknown_key", "unknown_source")
"""As `spot_meter_quarantined_total` names them."""


@click.group()
def gaps() -> None:
    """Usage events that are missing: the days of their requests cannot be complete."""


@gaps.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with the open gaps and the lost events.")
@suite_options
def list_(context: Context, *, as_json: bool) -> None:
    """What is missing, and what was declared lost."""
    found = context.run_with_bus(lambda bus: request_reply(bus, METER_GAPS, GapsQuery(), Gaps))
    if as_json:
        echo_json(gaps_json(found))
        return
    print_gaps(found)


@gaps.command()
@click.argument("source")
@click.argument("first", type=click.IntRange(1))
@click.argument("last", type=click.IntRange(1))
@click.option("--by", required=True, help="Who says so: a person's name.")
@click.option("--reason", required=True, help="Why they will never come.")
@click.option("--json", "as_json", is_flag=True, help="What is left, as `list --json` has it.")
@suite_options
def close(context: Context, *, source: str, first: int, last: int, by: str, reason: str, as_json: bool) -> None:
    """Declare the events FIRST to LAST of SOURCE lost. One that comes after all is counted all the same."""
    order = DeclareLost(source=source, first=first, last=last, by=by, reason=reason)
    left = context.run_with_bus(lambda bus: request_reply(bus, METER_LOST, order, Gaps))
    if as_json:
        echo_json(gaps_json(left))
    else:
        print_line(f"{source} {first} to {last} is declared lost; gaps that are open: {len(left.open)}")


@gaps.command()
@click.option("--reason", type=click.Choice(REASONS), help="Only messages quarantined for this reason.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with the sums.")
@suite_options
def recount(context: Context, *, reason: str | None, as_json: bool) -> None:
    """Count what is in quarantine and can be counted now, for instance after a wrong clock was corrected.

    Each event counts once. A message from the future counts at the moment when it came. Sealed days take nothing more.
    """
    sums = context.run_with_bus(lambda bus: _recount(bus, reason))
    if as_json:
        echo_json(sums)
    else:
        print_line(
            f"{sums['counted']:,} events are counted now, {sums['repeated']:,} were in the ledger already, "
            f"{sums['left']:,} cannot be counted: spotinference gaps list"
        )


async def _recount(bus: Bus, reason: str | None) -> dict[str, int]:
    sums = {"counted": 0, "repeated": 0, "left": 0}
    after: str | None = ""
    with Screen(stderr=True).status("counting again") as status:
        while after is not None:
            page = await request_reply(bus, METER_RECOUNT, RecountQuery(reason=reason, after=after), Recounted)
            sums = {name: count + getattr(page, name) for name, count in sums.items()}
            status.update(f"counting again: {sums['counted']:,} counted, {sums['left']:,} left")
            after = page.next
    return sums
