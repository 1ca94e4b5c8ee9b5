"""Makes ids that sort by time."""

import os
from collections.abc import Iterator

_NOISE_BYTES = 10
_BLOCKS_PER_CALL = 256
"""Ids per call of the system, which costs more than all the rest of an id."""
_VARIANT = "89ab"


def _random_blocks() -> Iterator[bytes]:
    while True:
        noise = os.urandom(_NOISE_BYTES * _BLOCKS_PER_CALL)
        yield from (noise[at : at + _NOISE_BYTES] for at in range(0, len(noise), _NOISE_BYTES))


_noise = _random_blocks()


def uuid7(now: float, random: bytes | None = None) -> str:
    """Return a UUIDv7 (RFC 9562) for Unix seconds `now`. `random` is ten bytes, by default from the system."""
    noise = next(_noise) if random is None else random
    time, rest = (int(now * 1000) & (1 << 48) - 1).to_bytes(6, "big").hex(), noise.hex()
    return f"{time[:8]}-{time[8:]}-7{rest[1:4]}-{_VARIANT[noise[2] >> 4 & 3]}{rest[5:8]}-{rest[8:]}"
