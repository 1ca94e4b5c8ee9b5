"""JSON values of an engine that are looked at one by one: a strange value says nothing about its neighbours."""

from typing import TypeVar

import msgspec

from shared.messages.codec import Decoder, Unreadable

T = TypeVar("T")
D = TypeVar("D")

ABSENT = msgspec.Raw(b"")
_EMPTY = frozenset({b"", b"null", b'""', b"[]", b"{}"})
_EMPTY_BYTES = 4
"""The longest of them."""


def is_empty(raw: msgspec.Raw) -> bool:
    """Whether a value is absent, null, or an empty text, list or object."""
    return len(raw) <= _EMPTY_BYTES and bytes(raw) in _EMPTY


def decode_or(default: D, decoder: Decoder[T], raw: bytes | bytearray | msgspec.Raw) -> T | D:
    """Return the value, or `default` where it is absent or not what `decoder` reads."""
    if not raw:
        return default
    try:
        return decoder.decode(raw)
    except Unreadable:
        return default
