"""Decompression of an engine's response that is compressed although the gateway asked for identity."""

import zlib

IDENTITY = b"identity"
MAX_INFLATED = 8 * 1024 * 1024
"""Bytes that one read of a buffered response, 256 KB at most, may inflate to: text compresses to a tenth, not a
thousandth."""
_ANY_HEADER = zlib.MAX_WBITS | 32
"""Accept gzip's or zlib's header."""
_NO_HEADER = -zlib.MAX_WBITS
_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 2
"""Bytes needed to recognize a header."""


class Undecodable(Exception):
    """The body does not match its Content-Encoding; the text says why."""


class Inflater:
    """Inflates gzip and deflate.

    Raises:
        Undecodable: the Content-Encoding is any other.
    """

    __slots__ = ("_begin", "_inflate", "_tail", "has_more")

    def __init__(self, coding: bytes) -> None:
        if coding.strip().lower() not in {b"gzip", b"x-gzip", b"deflate"}:
            raise Undecodable("unsupported content coding")
        self._inflate: zlib._Decompress | None = None
        self._begin = b""
        """The first bytes, while there are too few to recognize a header."""
        self._tail = b""
        self.has_more = False
        """Whether more output may be pending: feed empty bytes to get it."""

    @property
    def complete(self) -> bool:
        """Whether the end has come. A stream that has not begun is complete, too."""
        return not self._begin if self._inflate is None else self._inflate.eof

    def feed(self, data: bytes, most: int) -> bytes:
        """Return what these bytes inflate to, at most `most` bytes.

        Raises:
            Undecodable: the data is broken.
        """
        if self._inflate is None:
            self._begin += data
            if len(self._begin) < _HEADER_BYTES:
                return b""
            data = self._begin
            self._inflate = zlib.decompressobj(_ANY_HEADER if _has_header(data) else _NO_HEADER)
        if self._inflate.eof:
            return b""  # ignore what follows the end
        try:
            out = self._inflate.decompress(self._tail + data, most)
        except zlib.error:
            raise Undecodable("broken content coding") from None
        self._tail = self._inflate.unconsumed_tail
        self.has_more = not self._inflate.eof and (bool(self._tail) or len(out) == most)
        return out


def _has_header(data: bytes) -> bool:
    """Return whether the data begins with gzip's or zlib's header; some send deflate without one."""
    return data.startswith(_GZIP) or (data[0] & 0xF == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0)
