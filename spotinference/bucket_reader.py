"""Reads buckets. Entries that cannot be decoded are skipped, with one line on standard error for all of them."""

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
from spotinference.terminal import print_line

M = TypeVar("M", bound=msgspec.Struct)


async def read_bucket(bus: Bus, bucket: Bucket, kind: type[M], prefix: str = "") -> dict[str, tuple[M, int]]:
    """Return the entries whose key begins with `prefix`: the message and its revision, by key."""
    entries: dict[str, tuple[M, int]] = {}
    faults: list[str] = []
    for key, entry in (await bus.entries(bucket)).items():
        if key.startswith(prefix):
            try:
                name(key)
                entries[key] = decode(entry.value, kind), entry.revision
            except Unreadable as error:
                faults.append(f"{key[:100]!r}: {error}")
    if faults:
        count = "1 entry" if len(faults) == 1 else f"{len(faults)} entries"
        print_line(
            f"spotinference: bucket {bucket.name}: skipped {count} that cannot be decoded: {faults[0]}", err=True
        )
    return entries


async def start_view(records: View[MachineRecord], bus: Bus) -> None:
    """Start the view. Raises `BusUnavailable` if the bus does not deliver the bucket in time."""
    try:
        async with asyncio.timeout(BUS_SECONDS):
            await records.start(bus)
    except TimeoutError:
        raise BusUnavailable(f"the bus did not deliver bucket {FLEET.name!r} within {BUS_SECONDS:g} s") from None
