"""The command `responses`."""

import click

from shared.bus.request import request_reply
from shared.bus.subjects import METER_RESPONSES
from shared.messages.responses import Responses, ResponsesQuery
from spotinference.context import Context, suite_options
from spotinference.option_types import DayParam, ListParam
from spotinference.responses.view import print_responses, responses_json
from spotinference.terminal import echo_json
from spotinference.usage.command import day_span

DIMENSIONS = ("day", "hour", "model", "status", "code")


@click.command()
@click.option("--day", type=DayParam(), help="UTC day.  [default: today]")
@click.option("--days", type=click.IntRange(1, 366), help="Number of days, ending at --to.")
@click.option("--from", "first", type=DayParam(), help="First day, instead of --days.")
@click.option("--to", type=DayParam(), help="With --days or --from: last day.  [default: today]")
@click.option(
    "--by",
    type=ListParam(DIMENSIONS),
    default="status,code",
    show_default=True,
    help=f"Group by dimensions, comma-separated: {', '.join(DIMENSIONS)}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def responses(
    context: Context,
    *,
    day: str | None,
    days: int | None,
    first: str | None,
    to: str | None,
    by: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show how requests with a valid key were answered: the shares that succeeded and that ended with 503 or 504."""
    start, end = day_span(day, days, first, to)
    query = ResponsesQuery(day=start, to=end, by=by)
    answer = context.run_with_bus(lambda bus: request_reply(bus, METER_RESPONSES, query, Responses))
    if as_json:
        echo_json(responses_json(answer))
    else:
        print_responses(by, answer)
