"""The command `bands`."""

import click

from services.billing.adapters.export.json import json_fields
from shared.bus.request import request_reply
from shared.bus.subjects import BILLING_BANDS
from shared.messages.billing import Bands, BandsQuery
from spotinference.bands.view import print_bands
from spotinference.context import Context, suite_options
from spotinference.option_types import DayParam
from spotinference.terminal import echo_json
from spotinference.times import today


@click.command()
@click.option("--day", type=DayParam(), help="UTC day.  [default: today]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def bands(context: Context, day: str | None, *, as_json: bool) -> None:
    """Show each model's price band, from the cost of a million tokens over the last 7 and 28 days."""
    reply = context.run_with_bus(lambda bus: request_reply(bus, BILLING_BANDS, BandsQuery(day=day or today()), Bands))
    if as_json:
        echo_json(json_fields(reply))
    else:
        print_bands(reply)
