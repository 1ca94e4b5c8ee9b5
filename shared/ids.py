"""Identities that sort by time."""

import os
from collections.abc import Iterator

_NOISE_BYTES = 10
_AT_ONCE = 256
"""Draws per call of the system, which costs more than all the rest of an id."""
_VARIANT = "89ab"


def _drawn() -> Iterator[bytes]:
    while True:
        noise = os.urandom(_NOISE_BYTES * _AT_ONCE)
        yield from (noise[at : at + _NOISE_BYTES] for at in range(0, len(noise), _NOISE_BYTES))


_noise = _drawn()


def uuid7(now: float, random: bytes | None = None) -> str:
    """A UUIDv7 (RFC 9562) for Unix seconds `now`; `random` is ten bytes, drawn when absent."""
    noise = next(_noise) if random is None else random
    time, rest = (int(now * 1000) & (1 << 48) - 1).to_bytes(6, "big").hex(), noise.hex()
    return f"{time[:8]}-{time[8:]}-7{rest[1:4]}-{_VARIANT[noise[2] >> 4 & 3]}{rest[5:8]}-{rest[8:]}"
