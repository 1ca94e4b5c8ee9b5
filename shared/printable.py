"""Makes text from outside harmless: for a terminal by escaping what does not print, for a log by bounding it."""

import re

_HIDDEN = re.compile(r"[^ -~]+")


def printable(text: str) -> str:
    """Return the text in one line. Unprintable characters, such as ESC or a change of direction, become `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, most: int) -> str:
    """Return the text, without its middle if it is longer: a decoder's error ends with the place of the fault."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 1]}…{text[-end:]}"


def printable_json(text: str) -> str:
    """Return the same JSON with unprintable characters as `\\u001b`."""
    return text if text.isprintable() else _HIDDEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return "".join(c if c.isprintable() else _utf16_escapes(c) for c in match[0])


def _utf16_escapes(character: str) -> str:
    """Return a character as JSON escapes: one, or two for a character beyond 16 bits."""
    data = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[at : at + 2].hex()}" for at in range(0, len(data), 2))
