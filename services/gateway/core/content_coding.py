"""An engine's response that is compressed, although it was asked not to be."""

import zlib

IDENTITY = b"identity"
MAX_INFLATED = 8 * 1024 * 1024
"""Of one piece of a whole answer, at most a quarter of a megabyte: text is compressed to a tenth, not a thousandth."""
_ANY_HEADER = zlib.MAX_WBITS | 32
"""gzip's or zlib's."""
_NO_HEADER = -zlib.MAX_WBITS
_HEADER_BYTES = 2
"""What tells whether there is one."""


class Undecodable(Exception):
    """It is not what its Content-Encoding says, or too much; the text says why."""


class Inflater:
    """gzip and deflate. `Undecodable` for any other coding, whose name is that of the header."""

    __slots__ = ("_begun", "_first", "_inflate", "_tail", "behind")

    def __init__(self, coding: bytes) -> None:
        if coding.strip().lower() not in {b"gzip", b"x-gzip", b"deflate"}:
            raise Undecodable("a content coding that nobody asked for")
        self._inflate = zlib.decompressobj(_ANY_HEADER)
        self._begun = False
        self._first = b""
        """Too little to begin with."""
        self._tail = b""
        self.behind = False
        """Whether there may be more in what it has been fed: feed it nothing to get that."""

    @property
    def complete(self) -> bool:
        """Whether its end has come; what has not begun is complete too."""
        return self._inflate.eof or not (self._begun or self._first)

    def feed(self, data: bytes, most: int) -> bytes:
        """What these bytes add, at most so many. `Undecodable`."""
        if not self._begun:
            data = self._first + data
            self._first = data if len(data) < _HEADER_BYTES else b""
            if self._first:
                return b""
        try:
            return self._feed(data, most)
        except zlib.error:
            if self._begun:
                raise Undecodable("its content coding is broken") from None
        self._inflate = zlib.decompressobj(_NO_HEADER)  # deflate as some write it
        try:
            return self._feed(data, most)
        except zlib.error:
            raise Undecodable("its content coding is broken") from None

    def _feed(self, data: bytes, most: int) -> bytes:
        if self._inflate.eof:
            return b""  # what follows its end is nobody's
        out = self._inflate.decompress(self._tail + data, most)
        self._begun = self._begun or bool(data)
        self._tail = self._inflate.unconsumed_tail
        self.behind = not self._inflate.eof and (bool(self._tail) or len(out) == most)
        return out
