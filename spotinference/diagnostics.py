"""The results that `check` and `doctor` print: a level and a line of text each."""

from typing import Literal, NamedTuple


class Diagnostic(NamedTuple):
    level: Literal["ok", "note", "wrong"]
    """`note`: nothing is wrong, but an operator may want to know. Only `wrong` makes the exit status 1."""
    text: str


def ok(text: str) -> Diagnostic:
    return Diagnostic("ok", text)


def note(text: str) -> Diagnostic:
    return Diagnostic("note", text)


def wrong(text: str) -> Diagnostic:
    """`text` says where, what is wrong, and how to fix it."""
    return Diagnostic("wrong", text)
