"""`spotinference bands`: the price bands in force on a day, for the price list."""

from decimal import Decimal

import click

from services.billing.forms.json import fields
from shared.bus.subjects import BILLING_BANDS
from shared.messages.billing import Band, Bands, BandsQuery
from shared.printable import printable
from spotinference.context import Context, ask, suite_options
from spotinference.report.view import table
from spotinference.terminal import Screen, echo_json
from spotinference.usage.command import today


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


def show(found: Bands) -> None:
    """A line per model."""
    console = Screen()
    headings = ("model", "band, $/Mtok", "since", "7 days", "28 days")
    rows = [(band.model, _range(band), band.day, _usd(band.trailing_7), _usd(band.trailing_28)) for band in found.bands]
    console.print(table(headings, rows, texts=3))
    for band in found.bands:
        if band.reason:
            console.print(f"{printable(band.model)}: {printable(band.reason)}")
        if band.left_out:
            did_not = f"{len(band.left_out)} of the 28 days did not count, --json says why"
            console.print(f"{printable(band.model)}: {did_not}")


def _range(band: Band) -> str:
    if band.low is None or band.high is None:
        return "none"
    return f"{band.low:f} to {band.high:f}"


def _usd(amount: Decimal | None) -> str:
    return "-" if amount is None else f"{amount:,.4f}"
