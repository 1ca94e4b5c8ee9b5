"""What commands print. Text from outside is shown as it is: it is no markup, and it never steers the terminal.

Nothing else in this package prints, but `up`, whose children write JSON, and the engine.
"""

from collections.abc import Iterable
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


def _lines(text: str) -> str:
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))
