"""Tells each source how far it is in the ledger: bucket `meter`, so that outboxes may forget what is safe."""

from collections.abc import Callable

from services.meter.adapters.ledger import Ledger
from shared.bus import subjects, topology
from shared.bus.ports import Bus, Entry
from shared.errors import BusUnavailable, Conflict
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import Confirmed

KNOWN_SECONDS = 40 * topology.DAY
"""As long as the stream keeps usage: a source that was silent for longer has nothing left to trim."""
TRIES = 5
"""Against other replicas that raise the same mark; the next sweep raises what these did not."""


class Marks:
    """Only ever raises a mark, whichever replica is faster."""

    def __init__(self, bus: Bus, ledger: Ledger, now: Callable[[], float]) -> None:
        self._bus = bus
        self._ledger = ledger
        self._now = now

    async def sweep(self) -> None:
        """Raise whatever is lower on the bus than in the ledger: all of it when the bus lost its data."""
        marks = await self._ledger.marks(self._now() - KNOWN_SECONDS)
        told = await self._bus.entries(topology.METER)
        for source, mark in marks.items():
            if mark > _mark_of(told.get(subjects.confirmed_key(source))):
                await self.raise_to(source, mark)

    async def raise_to(self, source: str, mark: int) -> None:
        key = subjects.confirmed_key(source)
        value = encode(Confirmed(source=source, source_seq=mark, at=self._now()))
        for _ in range(TRIES):
            entry = await self._bus.get(topology.METER, key)
            if mark <= _mark_of(entry):
                return
            try:
                if entry is None:
                    await self._bus.create(topology.METER, key, value)
                else:
                    await self._bus.update(topology.METER, key, value, revision=entry.revision)
            except Conflict:
                continue
            return
        raise BusUnavailable(f"{key} changed {TRIES} times meanwhile")


def _mark_of(entry: Entry | None) -> int:
    try:
        return 0 if entry is None else decode(entry.value, Confirmed).source_seq
    except Unreadable:
        return -1  # not ours: replaced by the first mark, be it 0
