"""Buckets as commands read them: an entry that cannot be read is left out, with one line on standard error for all."""

import asyncio
from typing import TypeVar

import msgspec

from shared.bus.ports import Bus
from shared.bus.subjects import name
from shared.bus.topology import FLEET, Bucket
from shared.bus.view import View
from shared.errors import BusUnavailable
from shared.messages.codec import Unreadable, decode
from shared.messages.waker import MachineRecord
from spotinference.context import BUS_SECONDS
from spotinference.terminal import say

M = TypeVar("M", bound=msgspec.Struct)


async def read_bucket(bus: Bus, bucket: Bucket, kind: type[M], prefix: str = "") -> dict[str, tuple[M, int]]:
    """Return the entries whose key begins with `prefix`: by key the message and its revision."""
    found: dict[str, tuple[M, int]] = {}
    faults: list[str] = []
    for key, entry in (await bus.entries(bucket)).items():
        if key.startswith(prefix):
            try:
                name(key)
                found[key] = decode(entry.value, kind), entry.revision
            except Unreadable as error:
                faults.append(f"{key[:100]!r}: {error}")
    if faults:
        entries = "1 entry" if len(faults) == 1 else f"{len(faults)} entries"
        say(f"spotinference: bucket {bucket.name}: left out {entries} that cannot be read: {faults[0]}", err=True)
    return found


async def started(records: View[MachineRecord], bus: Bus) -> None:
    try:
        async with asyncio.timeout(BUS_SECONDS):
            await records.start(bus)
    except TimeoutError:
        raise BusUnavailable(f"the bus did not tell its bucket {FLEET.name!r} within {BUS_SECONDS:g} s") from None
