"""An engine's JSON values, decoded one by one: an invalid value does not affect its neighbours."""

from typing import TypeVar

import msgspec

from shared.messages.codec import Decoder, Unreadable

T = TypeVar("T")
D = TypeVar("D")

ABSENT = msgspec.Raw(b"")
_EMPTY = frozenset({b"", b"null", b'""', b"[]", b"{}"})
_EMPTY_BYTES = 4
"""Length of the longest of them."""


def is_empty(raw: msgspec.Raw) -> bool:
    """Return whether a value is absent, null, or an empty text, list or object."""
    return len(raw) <= _EMPTY_BYTES and bytes(raw) in _EMPTY


def decode_or(default: D, decoder: Decoder[T], raw: bytes | bytearray | msgspec.Raw) -> T | D:
    """Return the value, or `default` if it is absent or of the wrong type."""
    if not raw:
        return default
    try:
        return decoder.decode(raw)
    except Unreadable:
        return default
