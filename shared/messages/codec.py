"""How a message becomes bytes and back: JSON, one family (one struct type or union of them) per subject."""

from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

MALFORMED = (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError)
"""All that bytes from outside can make the decoder raise, a value nested too deeply among it."""

_encoder = msgspec.json.Encoder(decimal_format="string")
_decoders: "dict[type[Any], Decoder[Any]]" = {}


class Unreadable(ValueError):
    """The bytes are not the message they should be; the text says where."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of every message. Unknown fields are skipped, so that publishers may grow first."""


class Decoder(Generic[T]):
    """Decodes JSON from outside this process into one type, a union among them.

    `Decoder(kind).decode(data)` is the only way in for data from the bus, from files and over HTTP: whatever is wrong
    with them is `Unreadable`, never another exception.
    """

    def __init__(self, kind: Any) -> None:
        self._name = getattr(kind, "__name__", None) or str(kind)
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)

    def decode(self, data: bytes | bytearray | memoryview | str) -> T:
        """Return the value.

        Raises:
            Unreadable: the data are no JSON, not of this type, not UTF-8, or nested too deeply.
        """
        try:
            return self._decoder.decode(data)
        except MALFORMED as error:
            raise Unreadable(f"{self._name}: {error}") from error


def encode(message: msgspec.Struct) -> bytes:
    """One line of JSON; decimals are strings, times RFC 3339 UTC."""
    return _encoder.encode(message)


def decode(data: bytes | bytearray | memoryview | str, kind: type[T]) -> T:
    """Return the data as a `kind`, or raise `Unreadable`. `Decoder` does the same for a union."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = Decoder(kind)
    value: T = decoder.decode(data)
    return value


def rfc3339(moment: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds, e.g. `2026-11-23T10:00:00.000Z`."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
