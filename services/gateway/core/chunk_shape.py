"""What the chunks of one choice share, all but their text and two numbers, so that the next one need not be parsed.

Engines write chunk after chunk alike. Once one has been parsed and its usage taken out of what was parsed, the same
bytes around another text and other numbers mean the same.
"""

import re

from services.gateway.core.chunk import Chunk
from services.gateway.core.usage import number

_CHUNK = re.compile(
    rb'(?P<head>data: \{[^\r\n]*?"choices":\[\{"index":(?P<index>\d+),(?:"delta":\{"\w+":|"text":)")'
    rb'[^"\\\r\n]*'
    rb'(?P<middle>"[^\r\n]*?)'
    rb'(?P<usage>,"usage":\{"prompt_tokens":\d{1,12},"(?P<first>total|completion)_tokens":)\d{1,12}'
    rb'(?P<between>,"(?!(?P=first))(?:total|completion)_tokens":)\d{1,12}'
    rb"(?P<end>[^\r\n]*\}\}\n\n)"
)
_MAX_BYTES = 8192
"""A chunk that is longer is not looked at: it has more than a text."""


class ChunkShape:
    """Chunks of one choice: a head, a text without quotes, the bytes up to the numbers, two numbers, an end.

    `StreamReader.feed` compares, without the cost of a call for each chunk, and keeps the newest one that fitted.
    """

    __slots__ = (
        "_between",
        "_completion_first",
        "chunk",
        "end",
        "end_bytes",
        "head",
        "index_at",
        "numbers_at",
        "text_at",
        "until_numbers",
        "usage_at",
    )

    def __init__(self, match: "re.Match[bytes]") -> None:
        self.head = match["head"]
        self.text_at = match.end("head")
        self.until_numbers = match["middle"] + match["usage"]
        self.usage_at = len(match["middle"])
        """Where the usage begins, from the text's end on."""
        self.numbers_at = len(self.until_numbers)
        self._between = match["between"]
        self._completion_first = match["first"] == b"completion"
        self.end = match["end"]
        self.end_bytes = len(self.end) - self.end.index(b"}")
        """From the first brace that closes."""
        self.index_at = match.start("index")
        """Where the digits of the choice's index begin."""
        self.chunk = b""

    @property
    def completion(self) -> int | None:
        """The completion tokens that the newest chunk reports."""
        at = self.chunk.index(b'"', self.text_at) + self.numbers_at
        first, _, second = self.chunk[at : -len(self.end)].partition(self._between)
        return number(first if self._completion_first else second)


def shape_of(event: bytes, chunk: Chunk) -> ChunkShape | None:
    """The shape of an event whose one choice goes on; None where cutting its end off would not leave the same JSON."""
    if len(event) > _MAX_BYTES or not event.endswith(b"}}\n\n"):
        return None
    match = _CHUNK.fullmatch(event)
    if match is None or event[: match.start("usage")] + b"}" != b"data: " + chunk.without_usage:
        return None
    return ChunkShape(match)
