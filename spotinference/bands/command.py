"""`spotinference bands`: the price bands in force on a day, for the price list."""

import click

from services.billing.forms.json import fields
from shared.bus.subjects import BILLING_BANDS
from shared.messages.billing import Bands, BandsQuery
from spotinference.bands.view import show
from spotinference.context import Context, ask, suite_options
from spotinference.terminal import echo_json
from spotinference.times import today


@click.command()
@click.option("--day", help="A UTC day, YYYY-MM-DD; today by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with a list of bands.")
@suite_options
def bands(context: Context, day: str | None, *, as_json: bool) -> None:
    """Each model's price band, from what a million tokens cost in the 7 and the 28 days before."""
    found = context.on_bus(lambda bus: ask(bus, BILLING_BANDS, BandsQuery(day=day or today()), Bands))
    if as_json:
        echo_json(fields(found))
    else:
        show(found)
