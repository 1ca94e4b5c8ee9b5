"""The bytes that all chunks of one choice share, so that the next chunk need not be parsed.

Engines write chunks that differ only in their text and two numbers. Once one chunk has been parsed and its usage has
been cut out, the same bytes around another text and other numbers mean the same.
"""

import re
from dataclasses import dataclass

from services.gateway.core.chunk import Chunk
from services.gateway.core.usage import read_number

_CHUNK = re.compile(
    rb'(?P<head>data: \{[^\r\n]*?"choices":\[\{"index":(?P<index>\d+),(?:"delta":\{"\w+":|"text":)")'
    rb'[^"\\\r\n]*'
    rb'(?P<middle>"[^\r\n]*?)'
    rb'(?P<usage>,"usage":\{"prompt_tokens":\d{1,12},"(?P<first>total|completion)_tokens":)\d{1,12}'
    rb'(?P<between>,"(?!(?P=first))(?:total|completion)_tokens":)\d{1,12}'
    rb"(?P<end>[^\r\n]*\}\}\n\n)"
)
_MAX_BYTES = 8192
"""A longer chunk carries more than a text and is parsed."""


@dataclass(slots=True)
class ChunkShape:
    """The layout of one choice's chunks: a head, a text without quotes, bytes up to the numbers, two numbers, an end.

    `StreamReader.feed` compares inline, which saves a call per chunk, and keeps the newest chunk that matched.
    """

    head: bytes
    index_at: int
    """Where the digits of the choice's index begin."""
    text_at: int
    until_numbers: bytes
    usage_at: int
    """Offset of the usage from the end of the text."""
    end: bytes
    end_bytes: int
    """Length of the end, from its first closing brace on."""
    between: bytes
    completion_first: bool
    numbers_at: int
    chunk: bytes = b""

    @property
    def completion(self) -> int | None:
        """The completion tokens that the newest chunk reports."""
        at = self.chunk.index(b'"', self.text_at) + self.numbers_at
        first, _, second = self.chunk[at : -len(self.end)].partition(self.between)
        return read_number(first if self.completion_first else second)


def shape_of(event: bytes, chunk: Chunk) -> ChunkShape | None:
    """Return the shape of an event whose only choice continues; None if cutting its usage off would change the JSON."""
    if len(event) > _MAX_BYTES or not event.endswith(b"}}\n\n"):
        return None
    match = _CHUNK.fullmatch(event)
    if match is None or event[6 : match.start("usage")] + b"}" != chunk.without_usage:
        return None
    until_numbers, end = match["middle"] + match["usage"], match["end"]
    return ChunkShape(
        head=match["head"],
        index_at=match.start("index"),
        text_at=match.end("head"),
        until_numbers=until_numbers,
        usage_at=len(match["middle"]),
        end=end,
        end_bytes=len(end) - end.index(b"}"),
        numbers_at=len(until_numbers),
        between=match["between"],
        completion_first=match["first"] == b"completion",
    )
