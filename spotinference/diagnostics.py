"""What `spotinference check` found: each a line with its level."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    level: Literal["ok", "note", "wrong"]
    """`note`: nothing is wrong, and an operator may want to know; only `wrong` makes the exit status 1."""
    text: str


def ok(text: str) -> Finding:
    return Finding("ok", text)


def note(text: str) -> Finding:
    return Finding("note", text)


def wrong(text: str) -> Finding:
    """`text` names the place, what is wrong, and how to mend it."""
    return Finding("wrong", text)
