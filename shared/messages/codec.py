"""How a message becomes bytes and back: JSON, one family (one struct type or union of them) per subject.

Nothing else in the suite decodes what comes from outside the process: from the bus, from files, from the database, over
HTTP or from another process's output. Whatever is wrong with such data is `Unreadable`, never another exception.
"""

import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from types import UnionType
from typing import Any, Generic, TypeVar, get_args

import msgspec

from shared.errors import SpotinferenceError
from shared.printable import shortened

T = TypeVar("T")

MALFORMED = (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeError, RecursionError, OverflowError)
"""All that data from outside can make a decoder raise, a value nested too deeply among it."""

MAX_REASON = 300
"""Characters of a reason: a decoder quotes the value that is wrong, which may be as long as a message."""
FIRST_MOMENT, LAST_MOMENT = -62_135_596_800.0, 253_402_300_799.0
"""Unix seconds: the years 1 to 9999, which a date can name."""
_encoder = msgspec.json.Encoder(decimal_format="string")
_decoders: "dict[type[Any], Decoder[Any]]" = {}


class Unreadable(SpotinferenceError, ValueError):
    """The bytes are not the message they should be; the text says where, in `MAX_REASON` characters."""

    def __init__(self, reason: str) -> None:
        super().__init__(shortened(reason, MAX_REASON))


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of every message. Unknown fields are skipped, so that publishers may grow first."""


class Decoder(Generic[T]):
    """Decodes JSON from outside this process into one type, a union among them."""

    def __init__(self, kind: Any, dec_hook: Callable[[type, Any], Any] | None = None) -> None:
        """`dec_hook` makes the values of types that msgspec does not know; what it raises is no `Unreadable`."""
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        self._name = " | ".join(getattr(each, "__name__", str(each)) for each in kinds)
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind, dec_hook=dec_hook)

    def decode(self, data: bytes | bytearray | memoryview | str) -> T:
        """Return the value.

        Raises:
            Unreadable: the data are no JSON, not of this type, not UTF-8, or nested too deeply.
        """
        try:
            return self._decoder.decode(data)
        except MALFORMED as error:
            raise Unreadable(f"{self._name}: {error}") from error


_any: Decoder[Any] = Decoder(Any)


class PackedDecoder(Generic[T]):
    """The same for MessagePack, in which the ledger keeps what is large."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)

    def decode(self, data: bytes) -> T:
        """Return the value, or raise `Unreadable`."""
        try:
            return self._decoder.decode(data)
        except MALFORMED as error:
            raise Unreadable(f"packed value: {error}") from error


def encode(message: msgspec.Struct) -> bytes:
    """Encode as one line of JSON; decimals are strings, times RFC 3339 UTC."""
    return _encoder.encode(message)


def decode(data: bytes | bytearray | memoryview | str, kind: type[T]) -> T:
    """Return the data as a `kind`, or raise `Unreadable`. `Decoder` does the same for a union."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = Decoder(kind)
    value: T = decoder.decode(data)
    return value


def decode_any(data: bytes | bytearray | str) -> Any:
    """Return JSON of no known shape as dictionaries, lists and plain values, or raise `Unreadable`."""
    return _any.decode(data)


def decode_text(data: bytes | bytearray) -> str:
    """Return UTF-8 as text, or raise `Unreadable`, which names the first wrong byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 at its byte {error.start}") from error


def decode_toml(data: bytes | str, kind: type[T], parse_special: Callable[[type[Any], object], object]) -> T:
    """Return TOML as a `kind`. `parse_special` makes the types that msgspec does not know.

    Raises:
        Unreadable: `not TOML: …`, or msgspec's own text, which ends with the place: `… - at `$.a.b``.
    """
    try:
        tables = tomllib.loads(data if isinstance(data, str) else decode_text(data))
    except MALFORMED as error:
        raise Unreadable(f"not TOML: {error}") from error
    try:
        return msgspec.convert(tables, kind, dec_hook=parse_special)
    except MALFORMED as error:
        raise Unreadable(str(error)) from error


def rfc3339(moment: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds, e.g. `2026-11-23T10:00:00.000Z`.

    A moment before the year 1 or after 9999 becomes the nearest one that has a date.
    """
    return (
        datetime.fromtimestamp(min(max(moment, FIRST_MOMENT), LAST_MOMENT), UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
