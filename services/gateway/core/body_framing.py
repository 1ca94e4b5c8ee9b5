"""Where the body of a request ends, by its length or its chunks (RFC 9112, sections 6 and 7.1)."""

import re

MAX_LINE_BYTES = 20
"""Bytes of a line that decide what it is: the longest chunk size and its terminator."""
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}(?=[;\r\n \t])")
_SHORT_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\r\n]{0,64})?\r\n")
_LINE_END = b"\r\n"
_BLANK = (_LINE_END, b"\n")


class BodyFraming:
    """Follows a body read by read. The parser rejects malformed bodies; this class only finds the end."""

    __slots__ = ("_in_trailers", "_is_last", "_left", "_line")

    def __init__(self, length: int | None) -> None:
        """`length`: bytes; None: the body comes in chunks."""
        self._left = length or 0
        """Bytes until the end or the next line."""
        self._is_last = length is not None
        """Nothing follows the bytes that are left."""
        self._in_trailers = False
        self._line = b""
        """The beginning of an incomplete line."""

    @property
    def is_complete(self) -> bool:
        return self._is_last and not self._left

    def find_end(self, data: bytes, start: int) -> int:
        """Return where the body ends, or all the data if that comes later.

        Raises:
            ValueError: a chunk size is invalid.
        """
        at = start
        while at < len(data) and not self.is_complete:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
            elif self._line or self._in_trailers:
                at = self._read_line(data, at)
            else:
                at = self._skip_chunks(data, at)
        return at

    def _skip_chunks(self, data: bytes, start: int) -> int:
        """Skip chunks whose size lines are short and complete, as most are."""
        at = start
        while (line := _SHORT_LINE.match(data, at)) is not None and (size := int(line[1], 16)):
            at = line.end() + size + len(_LINE_END)
        if at == start:
            return self._read_line(data, at)
        self._left = max(0, at - len(data))
        return min(at, len(data))

    def _read_line(self, data: bytes, start: int) -> int:
        end = data.find(b"\n", start) + 1 or len(data)
        line = (self._line + data[start : min(end, start + MAX_LINE_BYTES)])[:MAX_LINE_BYTES]
        if data[end - 1 : end] != b"\n":
            self._line = line
            return end
        self._line = b""
        if self._in_trailers:
            self._is_last = line in _BLANK
        elif size := _SIZE.match(line):
            self._left = int(size[0], 16)
            self._in_trailers = not self._left
            self._left += len(_LINE_END) if self._left else 0
        else:
            raise ValueError("invalid chunk size")
        return end
