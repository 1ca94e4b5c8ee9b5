"""Price bands as a table."""

from decimal import Decimal

from shared.messages.billing import Band, Bands
from shared.printable import printable
from spotinference.tables import figure_table
from spotinference.terminal import Screen


def print_bands(reply: Bands) -> None:
    """Print one line per model."""
    console = Screen()
    headings = ("model", "band, $/Mtok", "since", "7 days", "28 days")
    rows = [
        (band.model, _format_range(band), band.day, _format_usd(band.trailing_7), _format_usd(band.trailing_28))
        for band in reply.bands
    ]
    console.print(figure_table(headings, rows, texts=3))
    for band in reply.bands:
        if band.reason:
            console.print(f"{printable(band.model)}: {printable(band.reason)}")
        if band.left_out:
            days = f"{len(band.left_out)} of the 28 days did not count; --json shows why"
            console.print(f"{printable(band.model)}: {days}")


def _format_range(band: Band) -> str:
    if band.low is None or band.high is None:
        return "none"
    return f"{band.low:f} to {band.high:f}"


def _format_usd(amount: Decimal | None) -> str:
    return "-" if amount is None else f"{amount:,.4f}"
