"""Price bands as a table."""

from decimal import Decimal

from shared.messages.billing import Band, Bands
from shared.printable import printable
from spotinference.tables import table
from spotinference.terminal import Screen


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
