"""What may arrive where a message should: bytes that are none, and a recorded message cut, mistyped and made absurd."""

import json
from collections.abc import Iterator
from typing import Any

DEPTH = 3_000
"""Deeper than any decoder follows; 6 KB of it, as small as an attack may be."""

NO_MESSAGES = (
    b"",
    b"\x00",
    b"\xff\xfe\xfd",
    b"\xef\xbb\xbf{}",
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"1e999",
    b'{"type":"usage.v1"}',
    b'{"type":null}',
    b'{"type":"unheard_of.v9","a":1}',
    b'{"type":"\xc3\x28"}',
    b"[" * DEPTH + b"]" * DEPTH,
    b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    b"x" * 200_000,
)

_WRONG_TYPES: tuple[Any, ...] = (None, "", "x" * 5_000, True, [], {}, [[]], {"a": {}})
_ABSURD_NUMBERS: tuple[Any, ...] = (-1, 0, -1e308, 1e308, 2**40, 2**63, -(2**63), 5e-324)
_ABSURD_TEXTS = (
    "",
    "x" * 5_000,
    "\x1b[2J\x07",
    "[red]",
    "../../etc/passwd",
    "a\x00b",
    "\u202egnp",
    "NaN",
    "-Infinity",
    "1e999",
    "9999-12-31",
)


def mistyped(message: dict[str, Any]) -> Iterator[bytes]:
    """The recorded message cut in two places, with members missing, and with each member of a wrong type."""
    text = json.dumps(message).encode()
    yield text[: len(text) // 2]
    yield text[:-1]
    yield text + text
    for name in message:
        yield json.dumps({key: value for key, value in message.items() if key != name}).encode()
        for wrong in _WRONG_TYPES:
            yield json.dumps({**message, name: wrong}).encode()
    deep = json.dumps({**message, "of_a_later_version": "DEEP"}).encode()
    yield deep.replace(b'"DEEP"', b"[" * DEPTH + b"]" * DEPTH)


def absurd(message: dict[str, Any]) -> Iterator[bytes]:
    """The recorded message with each number and each text, however deep, replaced by one that means nothing."""
    for path, value in _leaves(message):
        if path == ("type",) or isinstance(value, bool):
            continue
        for other in _ABSURD_NUMBERS if isinstance(value, int | float) else _ABSURD_TEXTS:
            yield json.dumps(_replaced(message, path, other)).encode()


Path = tuple[str | int, ...]


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _leaves(child, (*path, index))
    elif value is not None:
        yield path, value


def _replaced(value: Any, path: Path, leaf: Any) -> Any:
    if not path:
        return leaf
    head, *rest = path
    if isinstance(value, dict):
        return {key: _replaced(child, tuple(rest), leaf) if key == head else child for key, child in value.items()}
    return [_replaced(child, tuple(rest), leaf) if index == head else child for index, child in enumerate(value)]
