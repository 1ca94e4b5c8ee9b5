"""What commands print. Text from outside is shown as it is: it is no markup, and it never steers the terminal.

Nothing else in this package prints, but `up`, whose children write JSON, and the engine.
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
    """A rich console for tables and text that are made of others' words."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Before it is measured, so that columns are as wide as what is shown."""
        return super().render_str(_lines(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Whatever else comes to be shown, be it a `Text` that a caller made."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_lines(segment.text))


def say(line: str = "", *, err: bool = False, end: str = "\n") -> None:
    """Print one line."""
    click.echo(printable(line) + end, err=err, nl=False)


def echo_json(value: object) -> None:
    """Print a value for other programs, in one line: decimals are strings."""
    click.echo(printable_json(msgspec.json.encode(value).decode()))


def show(table: Table) -> None:
    """Print a table. What is too long goes on in the next line: an id that is cut off cannot be used."""
    for column in table.columns:
        column.overflow = "fold"
    Screen().print(table)


_NUMBERS = re.compile(r"[\d,.%]+")
PLAIN_SECONDS = 10.0
"""Between two lines of progress where there is no terminal that shows the newest one alone."""


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Show on standard error how far a long work is: call the result with the newest state, as often as you like.

    A terminal has it in one line that changes. Elsewhere there is a line when more than its numbers changes, and every
    ten seconds.
    """
    screen = Screen(stderr=True)
    words, told_at = "", 0.0

    def show_line(state: str) -> None:
        nonlocal words, told_at
        if screen.is_terminal:
            status.update(Text(printable(f"{what}: {state}")))
        elif _NUMBERS.sub("", state) != words or time.monotonic() >= told_at + PLAIN_SECONDS:
            say(f"{what}: {state}", err=True)
            words, told_at = _NUMBERS.sub("", state), time.monotonic()

    with screen.status(Text(printable(what))) as status:
        yield show_line


def _lines(text: str) -> str:
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))
