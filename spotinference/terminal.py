"""What commands print. Text from outside is printed literally: it is never markup and never controls the terminal.

Nothing else in this package prints, except `up`, whose children write JSON, and the engine.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from shared.printable import printable, printable_json


class Screen(Console):
    """A rich console for tables and text that contain text from outside."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape before measuring, so that columns are as wide as what is shown."""
        return super().render_str(_lines(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape everything else, such as a `Text` that a caller made."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_lines(segment.text))


def print_line(line: str = "", *, err: bool = False, end: str = "\n") -> None:
    """Print one line."""
    click.echo(printable(line) + end, err=err, nl=False)


def echo_json(value: object) -> None:
    """Print a value as one line of JSON. Decimals become strings."""
    click.echo(printable_json(msgspec.json.encode(value).decode()))


def print_table(table: Table) -> None:
    """Print a table. Long cells continue on the next line: an id that is cut off cannot be used."""
    for column in table.columns:
        column.overflow = "fold"
    Screen().print(table)


_NUMBERS = re.compile(r"[\d,.%]+")
PLAIN_SECONDS = 10.0
"""Between two lines of progress if standard error is not a terminal."""


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Show the progress of a long task on standard error: call the result with the newest state, as often as needed.

    A terminal shows one line that changes. Otherwise a line is printed when more than the numbers in it changes, and
    every ten seconds.
    """
    screen = Screen(stderr=True)
    last_words, printed_at = "", 0.0

    def show_line(state: str) -> None:
        nonlocal last_words, printed_at
        if screen.is_terminal:
            status.update(Text(printable(f"{what}: {state}")))
        elif _NUMBERS.sub("", state) != last_words or time.monotonic() >= printed_at + PLAIN_SECONDS:
            print_line(f"{what}: {state}", err=True)
            last_words, printed_at = _NUMBERS.sub("", state), time.monotonic()

    with screen.status(Text(printable(what))) as status:
        yield show_line


def _lines(text: str) -> str:
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))
