"""The grammar of event streams: where events end, their data, and replacing an event's data."""

import re
from itertools import pairwise

DONE = b"[DONE]"
BOM = b"\xef\xbb\xbf"

_LINE_END = rb"(?:\r\n|\n|\r(?=[^\n]))"
_END = re.compile(_LINE_END + _LINE_END)
_LONGEST_END = 4
# A line's beginning; `^` would not see a lone carriage return.
_DATA = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n]))data(?::[ ]?([^\r\n]*))?(?=[\r\n]|\Z)")
MAX_LINES = 16_384
"""Lines of one event: a JSON object over as many lines has a few hundred kilobytes."""
_BREAKS = re.compile(rb"[\r\n]+")


class UnusableStream(Exception):
    """The engine's stream can neither be read nor passed on; the text says why."""


def find_ends(buffer: bytearray, scanned: int) -> list[int]:
    """Return where the events end; the first `scanned` bytes hold no end. A final CR waits, since an LF may follow."""
    start = max(0, scanned - _LONGEST_END + 1)
    if buffer.find(b"\r", start) >= 0:
        return [end.end() for end in _END.finditer(buffer, start)]
    positions: list[int] = []
    while (start := buffer.find(b"\n\n", start) + 2) > 1:
        positions.append(start)
    return positions


def is_one_event(data: bytes) -> bool:
    """Return whether the data is exactly one complete event that uses LF only."""
    return data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2 and b"\r" not in data


def split_events(buffer: bytearray, ends: list[int]) -> list[bytes]:
    """Return the events that end at these positions."""
    with memoryview(buffer) as view:
        return [bytes(view[start:end]) for start, end in pairwise([0, *ends])]


def data_lines(event: bytes) -> list[bytes]:
    """Return the values of the event's `data` lines, to be joined by newlines; empty if it has none.

    Raises:
        UnusableStream: the event has too many lines.
    """
    if event.startswith(b"data:") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return [event[6:-2] if event.startswith(b" ", 5) else event[5:-2]]
    if event.count(b"\n") + event.count(b"\r") > 2 * MAX_LINES:
        raise UnusableStream("an event of too many lines")
    return [match[1] or b"" for match in _DATA.finditer(event)]


def with_data(event: bytes, old: bytes, new: bytes) -> bytes:
    """Return the event with its data replaced, on the line where the `old` data began; neither has line breaks."""
    begin = len(b"data: ")
    if event.startswith(old, begin) and len(event) == begin + len(old) + len(b"\n\n"):
        return b"".join((event[:begin], new, event[begin + len(old) :]))
    first, *others = [match for match in _DATA.finditer(event) if match[1] is not None]
    parts = [event[: first.start(1)], new]
    at = first.end()
    for match in others:
        parts.append(event[at : match.start()])
        at = _after_line(event, match.end())
    return b"".join([*parts, event[at:]])


def make_event(data: bytes) -> bytes:
    """Make an event of JSON data, whose line breaks only stand between tokens."""
    return b"data: " + _BREAKS.sub(b" ", data.strip()) + b"\n\n"


def _after_line(event: bytes, at: int) -> int:
    """Return the position after the line break at `at`."""
    return at + (2 if event.startswith(b"\r\n", at) else 1)


def begins_json(event: bytes) -> bool:
    """Return whether this is not an event but the beginning of a JSON object."""
    return event.removeprefix(BOM).lstrip().startswith(b"{")
