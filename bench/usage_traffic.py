"""What two gateways publish of usage, and when they were told that it is counted."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bench.load import BenchmarkFailed
from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Changed, WatchEvent
from shared.ids import uuid7
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent, UsageSource
from shared.messages.keys import KeyRecord, digest
from shared.messages.meter import Confirmed

COUNTED_SECONDS = 600.0
"""For everything published to be counted, or a second for each SLOWEST events where that is longer."""
SLOWEST = 500
TOGETHER = 100
"""Events that one gateway publishes before it waits for the stream."""
SOURCES = ("gw-1", "gw-2")
KEY_IDS = tuple(f"key-{n:02}" for n in range(50))
MODELS, MACHINES = ("m0", "m1", "m2"), ("machine-0", "machine-1", "machine-2", "machine-3")


@dataclass
class Traffic:
    """Everything since the start; two gateways take turns."""

    chance: random.Random = field(default_factory=lambda: random.Random(7))
    sent: dict[str, list[float]] = field(default_factory=lambda: {source: [] for source in SOURCES})
    tokens: int = 0
    marks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    lags: list[float] = field(default_factory=list)
    """Of each event, seconds."""
    days: set[str] = field(default_factory=set)
    _report: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, bus: JetStreamBus, ats: Sequence[float]) -> None:
        """One gateway's events, completed at these Unix seconds."""
        source = SOURCES[sum(map(len, self.sent.values())) // TOGETHER % len(SOURCES)]
        first = len(self.sent[source]) + 1
        if first == 1:
            await _announce(bus, source)
        events = [self._event(source, first + n, at) for n, at in enumerate(ats)]
        self.sent[source] += [time.monotonic()] * len(events)
        await bus.publish_all([(subjects.usage(source), encode(e), e.id) for e in events])

    def on_event(self, change: WatchEvent) -> None:
        if isinstance(change, Changed) and change.value is not None:
            reported = decode(change.value, Confirmed)
            now, before = time.monotonic(), self.marks[reported.source]
            self.lags += [now - at for at in self.sent[reported.source][before : reported.source_seq]]
            self.marks[reported.source] = max(before, reported.source_seq)
            self._report.set()

    @property
    def published(self) -> int:
        return sum(map(len, self.sent.values()))

    @property
    def unconfirmed(self) -> int:
        return self.published - sum(self.marks.values())

    async def wait_until_confirmed(self) -> None:
        """Everything published is counted and told."""
        try:
            async with asyncio.timeout(max(COUNTED_SECONDS, self.unconfirmed / SLOWEST)):
                while self.unconfirmed:
                    self._report.clear()
                    await self._report.wait()
        except TimeoutError:
            raise BenchmarkFailed(f"{self.unconfirmed} of {self.published} events were not counted in time") from None

    def _event(self, source: str, number: int, at: float) -> UsageEvent:
        draw = self.chance.random
        completion = 1 + int(draw() * 500)
        self.tokens += completion
        self.days.add(datetime.fromtimestamp(at, UTC).date().isoformat())
        return UsageEvent(
            id=uuid7(at),
            source=source,
            source_seq=number,
            completed_at=at,
            key_id=KEY_IDS[int(draw() * len(KEY_IDS))],
            model=MODELS[int(draw() * len(MODELS))],
            tier="gpu",
            machine=MACHINES[int(draw() * len(MACHINES))],
            generation=1,
            prompt_tokens=900,
            cached_tokens=300,
            completion_tokens=completion,
            reasoning_tokens=0,
            basis="engine",
            outcome="completed",
            status=200,
            streamed=True,
            wake_wait=0.0,
            wake_id=None,
            first_token=0.05 + draw() / 5,
            duration=0.3 + completion / 100,
            overhead=draw() / 1000,
        )


async def _announce(bus: JetStreamBus, source: str) -> None:
    """As a gateway does before its first event; and the keys, as the operator does before that."""
    await bus.put(topology.SOURCES, subjects.source_key(source), encode(UsageSource(source=source, at=0.0)))
    for key_id in KEY_IDS:
        await bus.put(topology.KEYS, digest(f"sk-{key_id}"), encode(KeyRecord(id=key_id, name="bench", created_at=0.0)))
