"""Tables whose figures are never cut."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from shared.printable import printable

Row = Sequence[str]


def table(
    headings: Row, rows: Iterable[Row], sums: Iterable[Row] = (), *, texts: int = 1, folds: int = 1, gap: int = 2
) -> Table:
    """Cells as plain text, the first `texts` columns to the left. The first `folds` are broken where they are long; a
    figure is not: where it finds no room it ends in `…`, so that nobody reads a part of it for the whole.
    """
    made = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for number, heading in enumerate(headings):
        justify: JustifyMethod = "left" if number < texts else "right"
        if number < folds:
            made.add_column(Text(heading), justify=justify, overflow="fold")
        else:
            made.add_column(Text(heading), justify=justify, no_wrap=True)
    for style, lines in (("", rows), ("bold", sums)):
        for line in lines:
            made.add_row(*(Text(printable(cell), style) for cell in line))
    return made


def usd(amount: Decimal | None, places: int | None = None) -> str:
    """Without `places`, as many as its size asks for."""
    if amount is None:
        return "-"
    return f"{amount:,.{places_of([amount]) if places is None else places}f}"


def places_of(amounts: Iterable[Decimal | None]) -> int:
    """Enough for the largest of them to be seen."""
    largest = max((abs(amount) for amount in amounts if amount is not None), default=Decimal(0))
    return 2 if largest >= 100 else 4 if largest >= 1 else 6
