"""Tables of amounts. A number is never broken over two lines."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from shared.printable import printable

Row = Sequence[str]


def figure_table(
    headings: Row, rows: Iterable[Row], sums: Iterable[Row] = (), *, texts: int = 1, folds: int = 1, gap: int = 2
) -> Table:
    """Return a table of plain text. The first `texts` columns are aligned to the left, the others to the right.

    Long cells of the first `folds` columns continue on the next line. A number does not: if there is no room, it ends
    in `…`, so that nobody takes a part of it for the whole.
    """
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for number, heading in enumerate(headings):
        justify: JustifyMethod = "left" if number < texts else "right"
        if number < folds:
            table.add_column(Text(heading), justify=justify, overflow="fold")
        else:
            table.add_column(Text(heading), justify=justify, no_wrap=True)
    for style, lines in (("", rows), ("bold", sums)):
        for line in lines:
            table.add_row(*(Text(printable(cell), style) for cell in line))
    return table


def format_usd(amount: Decimal | None, places: int | None = None) -> str:
    """Format an amount. Without `places`, its size decides how many decimals it has."""
    if amount is None:
        return "-"
    return f"{amount:,.{decimal_places([amount]) if places is None else places}f}"


def decimal_places(amounts: Iterable[Decimal | None]) -> int:
    """Return how many decimals show the largest of the amounts."""
    largest = max((abs(amount) for amount in amounts if amount is not None), default=Decimal(0))
    return 2 if largest >= 100 else 4 if largest >= 1 else 6
