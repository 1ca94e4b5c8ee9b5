"""Text from outside reaches the terminal as text: no control characters, no turns of direction, no markup."""

import io
import json
import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from shared.fleet_rows import machine_rows
from shared.printable import printable, printable_json
from spotinference import terminal
from spotinference.fleet.view import fleet_table
from tests.unit.spotinference.test_fleet_view import record

HOSTILE = "a\x1b[31mred\x9b2J\u202eevil\u2066x\r\nforged [bold]b[/bold] :smile: \x00\x7f\ud800"
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

texts = st.text(st.characters(), max_size=40) | st.just(HOSTILE)


def harmless(text: str) -> bool:
    """Nothing but line ends is hidden."""
    return not any(unicodedata.category(c) in HIDDEN for c in text.replace("\n", ""))


def shown(*values: Any) -> str:
    screen, file = terminal.Screen(), io.StringIO()
    screen.file, screen.width = file, 400
    screen.print(*values)
    return file.getvalue()


@given(texts)
def test_what_does_not_print_is_escaped_and_all_else_stays(text: str) -> None:
    safe = printable(text)
    assert safe.isprintable()
    assert printable(safe) == safe
    assert safe == text or not text.isprintable()


@given(st.recursive(texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=5))
def test_json_is_harmless_and_decodes_to_the_same(value: Any) -> None:
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no JSON
    safe = printable_json(text)
    assert safe.isprintable()
    assert json.loads(safe) == json.loads(text)


@given(texts)
def test_a_screen_shows_text_and_never_markup(text: str) -> None:
    table = Table(text, title=text)
    table.add_row(text)
    table.add_row(Text(text, "bold red"))
    for value in (text, Text(text), table):
        assert harmless(shown(value))


def test_markup_stays_as_it_was_written() -> None:
    table = Table("[red]head[/red]")
    table.add_row("[bold]cell[/bold] :smile:")
    reply = shown(table)
    assert "[red]head[/red]" in reply
    assert "[bold]cell[/bold] :smile:" in reply


def test_columns_are_as_wide_as_what_is_shown() -> None:
    table = Table("name", "next", box=None)
    for name in ("\x1b\x1b\x1b", "plain"):
        table.add_row(name, "|")
    first, second = shown(table).splitlines()[1:]
    assert first.index("|") == second.index("|")


@pytest.mark.parametrize("err", [False, True])
def test_a_line_is_one_line(err: bool, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_line(HOSTILE, err=err)
    out, other = capsys.readouterr()
    reply = other if err else out
    assert reply.count("\n") == 1
    assert reply.endswith("\n")
    assert harmless(reply)


def test_the_fleet_is_shown_harmlessly() -> None:
    machines = machine_rows([record(HOSTILE, "broken", tier=HOSTILE, reason=HOSTILE, alarm=HOSTILE)], {}, 0.0)
    reply = shown(fleet_table(machines))
    assert harmless(reply)
    assert "[bold]b[/bold]" in reply
