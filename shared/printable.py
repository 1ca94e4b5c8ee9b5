"""Text from outside, made harmless for a terminal: one function for all that prints it."""

import re

_HIDDEN = re.compile(r"[^ -~]+")


def printable(text: str) -> str:
    """Return the text in one line. What does not print, such as ESC, NUL or a turn of direction, becomes `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_json(text: str) -> str:
    """Return the same JSON, with all that does not print as `\\u001b`."""
    return text if text.isprintable() else _HIDDEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return "".join(c if c.isprintable() else _units(c) for c in found[0])


def _units(character: str) -> str:
    """A character in JSON's escapes: one, or two beyond 16 bits."""
    data = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[at : at + 2].hex()}" for at in range(0, len(data), 2))
