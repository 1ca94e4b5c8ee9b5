"""An engine's response that is compressed, although it was asked not to be."""

import zlib

IDENTITY = b"identity"
MAX_INFLATED = 8 * 1024 * 1024
"""Of one piece of a whole answer, at most a quarter of a megabyte: text is compressed to a tenth, not a thousandth."""
_ANY_HEADER = zlib.MAX_WBITS | 32
"""gzip's or zlib's."""
_NO_HEADER = -zlib.MAX_WBITS
_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 2
"""What tells whether there is one."""


class Undecodable(Exception):
    """It is not what its Content-Encoding says, or too much; the text says why."""


class Inflater:
    """gzip and deflate. `Undecodable` for any other coding, whose name is that of the header."""

    __slots__ = ("_begin", "_inflate", "_tail", "has_more")

    def __init__(self, coding: bytes) -> None:
        if coding.strip().lower() not in {b"gzip", b"x-gzip", b"deflate"}:
            raise Undecodable("a content coding that nobody asked for")
        self._inflate: zlib._Decompress | None = None
        self._begin = b""
        """Too little to tell whether it has a header."""
        self._tail = b""
        self.has_more = False
        """Whether there may be more in what it has been fed: feed it nothing to get that."""

    @property
    def complete(self) -> bool:
        """Whether its end has come; what has not begun is complete too."""
        return not self._begin if self._inflate is None else self._inflate.eof

    def feed(self, data: bytes, most: int) -> bytes:
        """What these bytes add, at most so many. `Undecodable`."""
        if self._inflate is None:
            self._begin += data
            if len(self._begin) < _HEADER_BYTES:
                return b""
            data = self._begin
            self._inflate = zlib.decompressobj(_ANY_HEADER if _has_header(data) else _NO_HEADER)
        if self._inflate.eof:
            return b""  # what follows its end is nobody's
        try:
            out = self._inflate.decompress(self._tail + data, most)
        except zlib.error:
            raise Undecodable("its content coding is broken") from None
        self._tail = self._inflate.unconsumed_tail
        self.has_more = not self._inflate.eof and (bool(self._tail) or len(out) == most)
        return out


def _has_header(data: bytes) -> bool:
    """Whether it begins as gzip or zlib; some send deflate without."""
    return data.startswith(_GZIP) or (data[0] & 0xF == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0)
