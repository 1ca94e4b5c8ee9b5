"""Identities that sort by time."""

import os
from collections.abc import Iterator

_NOISE_BYTES = 10
_AT_ONCE = 256
"""Draws per call of the system, which costs more than all the rest of an id."""


def _drawn() -> Iterator[bytes]:
    while True:
        noise = os.urandom(_NOISE_BYTES * _AT_ONCE)
        yield from (noise[at : at + _NOISE_BYTES] for at in range(0, len(noise), _NOISE_BYTES))


_noise = _drawn()


def uuid7(now: float, random: bytes | None = None) -> str:
    """A UUIDv7 (RFC 9562) for Unix seconds `now`; `random` is ten bytes, drawn when absent."""
    noise = int.from_bytes(next(_noise) if random is None else random)
    value = (int(now * 1000) & (1 << 48) - 1) << 80 | noise
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
