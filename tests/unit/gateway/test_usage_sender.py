"""Usage on its way: all arrives, in order; what the ledger does not confirm goes again, and nothing else does."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from services.gateway.adapters import segments, usage_sender
from services.gateway.adapters.usage_sender import RESEND_SECONDS, UsageSender
from shared.bus.memory import MemoryBus
from shared.bus.ports import Changed
from shared.bus.subjects import confirmed_key, usage
from shared.bus.topology import METER, USAGE
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Confirmed
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.gateway.test_outbox import event, filled, opened


class Line(MemoryBus):
    """A bus that notes what is sent over it, and whose connection breaks on order."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, int]] = []
        self.breaks_after: int | None = None
        self.during: Callable[[], object] = lambda: None
        """Called while a batch is under way."""

    async def publish_all(self, messages: Sequence[tuple[str, bytes, str]]) -> None:
        self._check()
        for number, (subject, data, message_id) in enumerate(messages):
            if number == self.breaks_after:
                raise BusUnavailable("broken")
            its = decode(data, UsageEvent)
            assert (subject, message_id) == (usage(its.source), its.id)
            self.sent.append((its.source, its.source_seq))
            await self.publish(subject, data, message_id=message_id)
        self.during()

    def taken(self) -> list[int]:
        """The numbers sent since the last call."""
        numbers = [seq for _, seq in self.sent]
        self.sent.clear()
        return numbers

    async def confirm(self, source: str, seq: int) -> None:
        await self.put(METER, confirmed_key(source), encode(Confirmed(source=source, source_seq=seq, at=1.0)))


class Sending:
    """An outbox, its sender, and the time that the test gives."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.marks: list[int] = []
        self.line = Line()
        self.outbox = opened(folder)
        self.sender = UsageSender(self.line, self.outbox, lambda: self.now, self.marks.append)

    async def add(self, count: int) -> None:
        await filled(self.outbox, count)

    async def step(self) -> list[int]:
        """What goes until nothing more is to go."""
        while await self.sender._step():
            pass
        return self.line.taken()

    async def waited(self, seconds: float) -> list[int]:
        """What goes in so long, the sender looking each second."""
        results = []
        for _ in range(int(seconds)):
            self.now += 1.0
            results += await self.step()
        return results


@pytest.fixture
async def sending(tmp_path: Path) -> Sending:
    made = Sending(tmp_path)
    await made.sender.start()
    return made


async def test_each_event_is_published_once_with_its_id_and_stored_bytes(sending: Sending) -> None:
    first = event(sending.outbox)
    sending.outbox.append(first)
    assert await sending.step() == [1]
    assert await sending.step() == []
    await sending.add(2)
    assert await sending.step() == [2, 3]
    (stored, *_) = await sending.line.read(USAGE)
    assert stored.data == encode(first)


async def test_no_event_is_published_before_it_is_synced(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("os.fdatasync", fails)
        sending.outbox.append(event(sending.outbox))
        assert await sending.step() == []
        assert sending.outbox.fault is not None
    assert await sending.step() == [1]


async def test_a_failed_batch_is_resent_completely_and_in_order(sending: Sending) -> None:
    await sending.add(5)
    sending.line.breaks_after = 3
    with pytest.raises(BusUnavailable):
        await sending.step()
    assert sending.line.taken() == [1, 2, 3]
    sending.line.breaks_after = None
    assert await sending.step() == [1, 2, 3, 4, 5]


async def test_what_is_confirmed_does_not_go_again(sending: Sending) -> None:
    await sending.add(5)
    await sending.step()
    await sending.line.confirm("a", 5)
    assert (sending.outbox.pending, sending.marks) == (0, [5])
    assert await sending.waited(10 * RESEND_SECONDS) == []
    await sending.add(1)
    assert await sending.waited(RESEND_SECONDS) == [6]  # the patience begins with the sending, not with the last mark
    assert await sending.waited(2) == [6]


async def test_an_unusable_mark_does_not_end_the_watch(sending: Sending) -> None:
    nobody = encode(Confirmed(source="", source_seq=1, at=1.0))
    for data in (nobody, b"{", b"[" * 6000):
        await sending.line.put(METER, "confirmed.x", data)
    await sending.add(2)
    await sending.line.confirm("a", 1)
    assert sending.line.rejections.counts == {"meter": 3}
    assert not sending.line.watch_ended.done()
    assert sending.outbox.mark("a") == 1


async def test_unconfirmed_events_are_resent_with_growing_pauses_until_the_mark_moves(sending: Sending) -> None:
    await sending.add(3)
    assert await sending.step() == [1, 2, 3]
    assert await sending.waited(RESEND_SECONDS) == []
    assert await sending.waited(1) == [1, 2, 3]
    assert await sending.waited(2 * RESEND_SECONDS) == []
    assert await sending.waited(1) == [1, 2, 3]
    await sending.line.confirm("a", 1)
    assert await sending.waited(RESEND_SECONDS) == []
    assert await sending.waited(1) == [2, 3]
    rounds = len(await sending.waited(24 * 3600)) / 2
    assert 24 <= rounds <= 31  # once an hour at last


async def test_only_a_window_beyond_the_mark_is_resent(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_sender, "RESEND_EVENTS", 20)
    monkeypatch.setattr(segments, "BLOCK_BYTES", 2000)
    await sending.add(100)
    assert await sending.step() == list(range(1, 101))  # what goes for the first time is not held back
    again = await sending.waited(RESEND_SECONDS + 1)
    assert again == list(range(1, len(again) + 1))
    assert 20 <= len(again) < 30
    await sending.add(1)
    assert await sending.step() == [101]
    await sending.line.confirm("a", 15)
    more = await sending.step()
    assert (more[0], 35 <= more[-1] < 45) == (again[-1] + 1, True)
    await sending.line.confirm("a", 60)
    assert (await sending.step())[0] == 61


async def test_all_unconfirmed_events_are_resent_after_a_reconnect(sending: Sending) -> None:
    await sending.add(5)
    await sending.step()
    await sending.line.confirm("a", 2)
    sending.line.restart()
    assert await sending.step() == [3, 4, 5]
    assert await sending.step() == []


async def test_a_reconnect_while_a_batch_is_under_way_is_not_forgotten(sending: Sending) -> None:
    await sending.add(5)
    sending.line.during = sending.line.restart
    await sending.sender._step()
    sending.line.during = lambda: None
    sending.line.taken()
    assert await sending.step() == [1, 2, 3, 4, 5]


async def test_a_mark_while_a_batch_is_under_way_is_not_undone(
    sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sending.add(5)
    mark = encode(Confirmed(source="a", source_seq=3, at=1.0))
    sending.line.during = lambda: sending.sender._on_event(Changed(confirmed_key("a"), mark, 1))
    monkeypatch.setattr(segments, "BLOCK_BYTES", 600)
    assert await sending.step() == [1, 4, 5]
    sending.line.during = lambda: None
    assert await sending.waited(RESEND_SECONDS + 2) == [4, 5]


async def test_an_earlier_boot_s_events_go_under_its_name_and_are_forgotten(tmp_path: Path) -> None:
    earlier = await filled(opened(tmp_path, "earlier"), 4)
    earlier.close()
    sending = Sending(tmp_path)
    await sending.line.confirm("earlier", 2)
    await sending.sender.start()
    await sending.add(1)
    await sending.step()
    sending.line.restart()
    await sending.step()
    stored = [decode(received.data, UsageEvent) for received in await sending.line.read(USAGE)]
    assert sorted((its.source, its.source_seq) for its in stored) == [("a", 1), ("earlier", 3), ("earlier", 4)]
    await sending.line.confirm("earlier", 4)
    assert (sending.outbox.sources, sending.outbox.pending, sending.marks) == (["a"], 1, [])
    assert await sending.step() == []


async def test_foreign_entries_in_the_bucket_are_ignored(sending: Sending) -> None:
    await sending.add(2)
    await sending.step()
    mark = Confirmed(source="a", source_seq=2, at=1.0)
    with structlog.testing.capture_logs() as logs:
        await sending.line.put(METER, "usage_of_key.k", b"{}")
    assert logs == []
    await sending.line.put(METER, confirmed_key("other"), encode(mark))
    await sending.line.put(METER, confirmed_key("a"), b"garbage")
    await sending.line.put(METER, confirmed_key("b"), encode(Confirmed(source="b", source_seq=9, at=1.0)))
    assert (sending.outbox.pending, sending.marks) == (2, [])
    await sending.line.confirm("a", 1)
    await sending.line.confirm("a", 1)
    await sending.line.delete(METER, confirmed_key("a"))
    assert (sending.outbox.pending, sending.marks) == (1, [1])


async def test_a_mark_that_falls_back_is_not_believed(sending: Sending) -> None:
    await sending.add(5)
    await sending.line.confirm("a", 5)
    await sending.line.confirm("a", 2)
    sending.line.restart()
    assert (await sending.step(), sending.outbox.pending, sending.marks) == ([], 0, [5])


@pytest.mark.parametrize("away", ["bus", "disk"])
async def test_the_task_survives_an_outage_and_logs_it_once(
    sending: Sending, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    monkeypatch.setattr(usage_sender, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(usage_sender, "GATHER_SECONDS", 0.0)
    polls: list[str] = []

    def inspect_state(*_: object) -> None:
        polls.append(away)
        if away == "bus":
            raise BusUnavailable("not connected")
        raise OSError(5, "Input/output error")

    def logged(logs: list[MutableMapping[str, Any]]) -> list[str]:
        return [entry["event"] for entry in logs if entry["event"].startswith("usage")]

    with structlog.testing.capture_logs() as logs:
        with monkeypatch.context() as broken:
            if away == "bus":
                broken.setattr(sending.line, "publish_all", inspect_state)
            else:
                broken.setattr(segments.Segment, "read", inspect_state)
            running = asyncio.create_task(sending.sender.run())
            for _ in range(3):
                sending.outbox.append(event(sending.outbox))
                sending.sender.wake()
            await until(lambda: asyncio.sleep(0, len(polls)), lambda count: count >= 3)
            assert (sending.outbox.synced("a"), sending.line.sent) == (3, [])
            assert logged(logs) == ["usage_delayed"]
        await until(lambda: asyncio.sleep(0, sending.line.sent), lambda sent: len(sent) == 3)
        await until(
            lambda: asyncio.sleep(0, logged(logs)), lambda reported: reported == ["usage_delayed", "usage_resumed"]
        )
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_events_waiting_for_the_bus_take_no_memory(sending: Sending) -> None:
    sending.line.connected = False
    await sending.add(10)
    with pytest.raises(BusUnavailable):
        await sending.step()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10):
            await sending.add(1000)
            with pytest.raises(BusUnavailable):
                await sending.step()
        gc.collect()
        after, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sending.outbox.size_bytes > 4_000_000
    assert after - before < 50_000
    assert most - before < 1_000_000


async def test_a_drain_sends_all_there_is(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BLOCK_BYTES", 1000)
    await sending.add(20)
    sending.outbox.append(event(sending.outbox))
    await sending.sender.drain(5.0)
    assert sending.line.taken() == list(range(1, 22))


async def test_a_drain_ends_although_the_bus_does_not_answer(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_messages: object) -> None:
        await asyncio.Event().wait()

    def unreadable(*_: object) -> None:
        raise OSError(5, "Input/output error")

    await sending.add(1)
    monkeypatch.setattr(sending.line, "publish_all", never)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await sending.sender.drain(0.01)
    sending.line.connected = False
    await sending.sender.drain(0.01)
    monkeypatch.setattr(segments.Segment, "read", unreadable)
    await sending.sender.drain(0.01)
    assert sending.outbox.pending == 1
