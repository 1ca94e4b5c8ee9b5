"""How a message becomes bytes and back: JSON, one family (one struct type or union of them) per subject."""

from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

M = TypeVar("M", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder(decimal_format="string")
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}


class Unreadable(ValueError):
    """The bytes are not the message they should be; the text says where."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of every message. Unknown fields are skipped, so that publishers may grow first."""


def encode(message: msgspec.Struct) -> bytes:
    """One line of JSON; decimals are strings, times RFC 3339 UTC."""
    return _encoder.encode(message)


def decode(data: bytes, kind: type[M]) -> M:
    """The message, or `Unreadable`."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        message: M = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"{kind.__name__}: {error}") from error
    return message


def rfc3339(moment: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds, e.g. `2026-11-23T10:00:00.000Z`."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
