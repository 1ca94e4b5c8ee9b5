"""No usage event is lost, whatever fails in whatever order: a gateway, its disk, the bus and the ledger in one machine.

What may be missing at the end is what was appended and not written when the process died (no client has seen it, or
the disk did not take it), and what was damaged on the disk before it was sent: the test knows each. Nothing else is.
"""

import asyncio
import errno
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.gateway.adapters import outbox as outbox_module
from services.gateway.adapters import segments, usage_sender
from services.gateway.adapters.outbox import Outbox
from services.gateway.adapters.usage_sender import UsageSender
from shared.bus.memory import _StreamState
from shared.bus.topology import USAGE
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent
from tests.unit.gateway.test_outbox import event
from tests.unit.gateway.test_usage_sender import Line

BLOCK = 1200
"""Two or three events."""


class Ledger:
    """Counts an event once, and knows up to where a source has no gap."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, int], bytes] = {}

    def take(self, data: bytes) -> None:
        its = decode(data, UsageEvent)
        assert self.events.setdefault((its.source, its.source_seq), data) == data, "one number, two events"

    def mark(self, source: str) -> int:
        seq = 0
        while (source, seq + 1) in self.events:
            seq += 1
        return seq


class UsageKept(RuleBasedStateMachine):
    """`kept`: what has to be in the ledger at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.Runner()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(outbox_module, "SEGMENT_BYTES", 3000)
        self.patches.setattr(segments, "BLOCK_BYTES", BLOCK)
        self.patches.setattr(segments, "PROBE_BYTES", 700)
        self.patches.setattr(usage_sender, "RESEND_EVENTS", 4)
        pwrite, pread = os.pwrite, os.pread

        def write(descriptor: int, data: bytes, offset: int) -> int:
            if self.disk_takes is None:
                return pwrite(descriptor, data, offset)
            if not self.disk_takes:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return pwrite(descriptor, data[: self.disk_takes], offset)

        def read(descriptor: int, length: int, offset: int) -> bytes:
            assert length <= BLOCK, "memory grows with what is pending"
            return pread(descriptor, length, offset)

        self.patches.setattr(os, "pwrite", write)
        self.patches.setattr(os, "pread", read)
        self.disk_takes: int | None = None
        self.now = 0.0
        self.boots = 0
        self.line = Line()
        self.ledger = Ledger()
        self.kept: dict[tuple[str, int], bytes] = {}

    @initialize()
    def boot(self) -> None:
        self.boots += 1
        self.outbox = Outbox(self.folder, f"boot{self.boots}", max_bytes=10**6)
        self.sender = UsageSender(self.line, self.outbox, lambda: self.now)
        self._watch()

    @rule(count=st.integers(1, 6))
    def append(self, count: int) -> None:
        """In one iteration of the loop: whatever runs the loop next begins with writing them."""

        def append_all() -> None:
            for _ in range(count):
                its = event(self.outbox)
                self.kept[its.source, its.source_seq] = encode(its)
                self.outbox.append(its)

        loop = self.loop.get_loop()
        loop.call_soon(append_all)
        loop.call_soon(loop.stop)
        loop.run_forever()

    @rule()
    def write(self) -> None:
        """As before each write to a client."""
        self.outbox.write_pending()
        assert (self.outbox.fault is not None) == bool(self.outbox._buffer)

    @rule(takes=st.none() | st.integers(0, 2000))
    def disk(self, takes: int | None) -> None:
        self.disk_takes = takes

    @rule(breaks_after=st.none() | st.integers(0, 3))
    def line_breaks(self, breaks_after: int | None) -> None:
        self.line.breaks_after = breaks_after

    @rule(steps=st.integers(1, 5))
    def send(self, steps: int) -> None:
        try:
            for _ in range(steps):
                self.loop.run(self.sender._step())
        except BusUnavailable:
            assert self.line.breaks_after is not None

    async def _sync(self) -> None:
        await self.outbox.sync()

    @rule()
    def sync(self) -> None:
        self.loop.run(self._sync())

    @rule(most=st.integers(1, 10))
    def ledger_works(self, most: int) -> None:
        """It takes what is in the stream, in any portion, and tells its marks."""

        async def work() -> None:
            for received in (await self.line.read(USAGE))[-most:]:
                self.ledger.take(received.data)
            for source in self.outbox.sources:
                if mark := self.ledger.mark(source):
                    await self.line.confirm(source, mark)

        self.loop.run(work())

    @rule()
    def bus_loses_its_data(self) -> None:
        """And with it the marks, until the ledger tells them again."""
        self.line._streams[USAGE.name] = _StreamState(USAGE)
        self.line._buckets.clear()
        self.line.restart()

    @rule(seconds=st.integers(1, 100))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(is_killed=st.booleans(), cut=st.integers(0, 900) | st.just(0), garbage=st.binary(max_size=10) | st.just(b""))
    def restart(self, is_killed: bool, cut: int, garbage: bytes) -> None:
        """The process ends, the end of its newest file may be damaged, and the next one starts."""
        if is_killed:
            self.outbox._buffer.clear()
        self.outbox.close()
        for seq in range(self.outbox._own.last + 1, self.outbox.next_seq):
            del self.kept[self.outbox.source, seq]
        if paths := sorted(self.folder.glob(f"{self.outbox.source}.*.log")):
            before = paths[-1].read_bytes()
            after = before[: max(0, len(before) - cut)] + garbage
            paths[-1].write_bytes(after)
            left = after.split(b"\n")
            for text in before.split(b"\n")[:-1]:
                record = segments.decode_record(text)
                if record and text not in left:
                    self.kept.pop((self.outbox.source, record.seq), None)
        self.line._watches.clear()
        self.boot()

    @precondition(lambda self: hasattr(self, "outbox"))
    @invariant()
    def the_numbers_on_the_gauges_are_true(self) -> None:
        assert self.outbox.size_bytes == sum(path.stat().st_size for path in self.folder.glob("*.log"))
        assert self.outbox.fault is None or self.outbox._buffer
        unconfirmed = Counter(source for source, seq in self.kept if seq > self.outbox.mark(source))
        assert self.outbox.pending == sum(unconfirmed[source] for source in self.outbox.sources)

    def teardown(self) -> None:
        """Everything works again: now all that is kept gets into the ledger, and the outbox gets empty."""
        try:
            if hasattr(self, "outbox"):
                self._heal()
                assert self.kept.items() <= self.ledger.events.items()
                assert self.outbox.pending == 0
                self.outbox.close()
        finally:
            self.patches.undo()
            self.loop.close()
            shutil.rmtree(self.folder)

    def _heal(self) -> None:
        self.disk_takes, self.line.breaks_after = None, None
        for _ in range(3 + len(self.kept)):
            self.time_passes(4000)
            self.send(1)
            self.ledger_works(10**6)

    def _watch(self) -> None:
        self.loop.run(self.sender.start())


TestUsageKept = UsageKept.TestCase
TestUsageKept.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
