"""What comes over the bus and cannot be read ends nothing: it is rejected alone, counted, and what follows goes on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from shared.bus import jetstream_watch, subjects
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.memory import MemoryBus
from shared.bus.ports import Received, WatchEvent
from shared.bus.provision import provision
from shared.bus.topology import INVOICES, KEYS
from shared.bus.view import View
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.keys import KeyRecord
from shared.messages.meter import ErrorReply
from tests.kit.nats_server import NatsServer
from tests.kit.raw_nats import publish_raw
from tests.kit.waiting import PATIENCE_SECONDS, until

ODD_KEYS = ["=", "=zz", "=FF", "=61", "a=2", "x/y", "ü", "a.=", "=C3"]
RAW_KEYS = [b"\xff\xfe", b"\xc3", b"a\x0bb", b"a\x0cb", b"\x1b[31m", b"a" * 3000 + b"="]
"""The server takes them; a bucket of ours in memory has no bytes in its keys."""


@dataclass
class Kind:
    bus: MemoryBus | JetStreamBus
    put: Callable[[str], Awaitable[None]]
    """Write a good record under any key."""
    restart: Callable[[], Awaitable[None]]
    odd: int
    """How many odd keys `put_all_odd` writes."""
    put_all_odd: Callable[[], Awaitable[None]]


def _record(name: str) -> bytes:
    return encode(KeyRecord(id=name, name=name, created_at=1.0))


@pytest.fixture(params=["memory", "nats"])
async def kind(request: pytest.FixtureRequest) -> AsyncIterator[Kind]:
    if request.param == "memory":
        memory = MemoryBus()

        async def put_in_memory(key: str) -> None:
            await memory.put(KEYS, key, _record("odd"))

        async def all_in_memory() -> None:
            for key in ODD_KEYS:
                await put_in_memory(key)

        async def restart() -> None:
            memory.restart()

        yield Kind(memory, put_in_memory, restart, len(ODD_KEYS), all_in_memory)
        return
    server: NatsServer = request.getfixturevalue("nats_server")
    async with connect(server.url, name="test", wait=PATIENCE_SECONDS) as bus:
        await provision(bus)

        async def put_raw(key: bytes) -> None:
            await asyncio.to_thread(publish_raw, server.url, b"$KV.keys." + key, _record("odd"))

        async def all_raw() -> None:
            for key in [*(key.encode() for key in ODD_KEYS), *RAW_KEYS]:
                await put_raw(key)

        async def rewatch() -> None:
            await bus.on_reconnect()

        yield Kind(bus, lambda key: put_raw(key.encode()), rewatch, len(ODD_KEYS) + len(RAW_KEYS), all_raw)


async def _wait_for_names(view: View[KeyRecord], names: set[str]) -> None:
    async def names_of_view() -> set[str]:
        return set(view)

    await until(names_of_view, lambda seen: seen == names)


async def test_a_view_starts_and_follows_past_entries_with_keys_that_are_no_names(kind: Kind) -> None:
    await kind.bus.put(KEYS, "before", _record("before"))
    await kind.put_all_odd()
    await kind.bus.put(KEYS, "after", _record("after"))
    view = View(KEYS, KeyRecord)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await view.start(kind.bus)
    assert set(view) == {"before", "after"}
    assert kind.bus.rejections.counts == {"keys": kind.odd}
    await kind.put("=yy")
    await kind.bus.put(KEYS, "later", _record("later"))
    await kind.bus.delete(KEYS, "before")
    await _wait_for_names(view, {"after", "later"})
    assert kind.bus.rejections.counts == {"keys": kind.odd + 1}
    assert not kind.bus.watch_ended.done()


async def test_an_unreadable_entry_is_counted_once_and_removes_what_was_there(kind: Kind) -> None:
    view = View(KEYS, KeyRecord)
    await view.start(kind.bus)
    await kind.bus.put(KEYS, "k", _record("k"))
    await _wait_for_names(view, {"k"})
    await kind.bus.put(KEYS, "k", b"[" * 6000)
    await kind.put("=")
    await _wait_for_names(view, set())
    await kind.restart()
    await kind.bus.put(KEYS, "good", _record("good"))
    await _wait_for_names(view, {"good"})

    async def rejected() -> int:
        return kind.bus.rejections.counts["keys"]

    await until(rejected, lambda number: number == 2)
    await kind.bus.put(KEYS, "k", _record("k"))
    await _wait_for_names(view, {"k", "good"})
    assert kind.bus.rejections.counts == {"keys": 2}


async def test_the_whole_bucket_is_read_with_entries_that_are_odd(kind: Kind) -> None:
    await kind.put_all_odd()
    await kind.bus.put(KEYS, "good", _record("good"))
    entries = await kind.bus.entries(KEYS)
    assert len(entries) == kind.odd + 1
    for key in entries:
        if key != "good":
            with pytest.raises(Unreadable):
                subjects.name(key)


async def test_a_subscription_goes_on_when_its_handler_raises(kind: Kind) -> None:
    received_data: list[bytes] = []

    async def on_message(received: Received) -> None:
        if received.data == b"poison":
            raise KeyError("nobody expected it")
        received_data.append(received.data)

    await kind.bus.subscribe("activity.*", on_message)
    for data in (b"one", b"poison", b"poison", b"two"):
        await kind.bus.publish_volatile("activity.g", data)

    async def data_received() -> list[bytes]:
        return received_data

    await until(data_received, lambda all_of_them: all_of_them == [b"one", b"two"])
    assert kind.bus.rejections.counts == {"activity.*": 2}


async def test_a_watch_ends_with_the_error_of_its_listener(kind: Kind) -> None:
    def on_event(event: WatchEvent) -> None:
        raise ZeroDivisionError(str(event))

    await kind.bus.watch(KEYS, on_event)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert isinstance(await kind.bus.wait_for_ended_watch(), ZeroDivisionError)
    assert kind.bus.view_ages() == {}


async def test_a_quiet_bucket_is_known_to_be_current(bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetstream_watch, "CHECK_SECONDS", 0.05)
    view = View(KEYS, KeyRecord)
    await view.start(bus)
    (watch,) = bus._watches
    for change in ("a", "b", None):
        before = watch.current_at

        async def confirmed() -> float:
            return watch.current_at

        await until(confirmed, lambda at, before=before: at > before)  # type: ignore[misc]  # bound per round
        assert set(bus.view_ages()) == {"keys"}
        if change:
            await bus.put(KEYS, change, _record(change))


async def test_a_watch_that_the_server_has_forgotten_begins_again(
    bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream_watch, "CHECK_SECONDS", 0.05)
    view = View(KEYS, KeyRecord)
    await view.start(bus)
    for consumer in await bus.js.consumers_info("KV_keys"):
        await bus.js.delete_consumer("KV_keys", consumer.name)
    await bus.put(KEYS, "k", _record("k"))
    await _wait_for_names(view, {"k"})


async def test_what_is_written_to_a_watch_past_its_bucket_is_dropped(bus: JetStreamBus, nats_url: str) -> None:
    view = View(KEYS, KeyRecord)
    await view.start(bus)
    (consumer,) = await bus.js.consumers_info("KV_keys")
    inbox = str(consumer.config.deliver_subject)
    reconnects = bus.client.stats["reconnects"]
    async with connect(nats_url, name="intruder", wait=PATIENCE_SECONDS) as other:
        await other.client.publish(inbox, b"{}")
        await other.client.publish(inbox, b"{}", reply="nobody")
        await other.client.flush()
    await bus.put(KEYS, "k", _record("k"))
    await _wait_for_names(view, {"k"})
    assert bus.rejections.counts == {"keys": 1, "client": 1}
    assert (bus.client.stats["reconnects"], bus.watch_ended.done()) == (reconnects, False)


async def test_a_request_is_answered_with_an_error_reply_when_its_handler_raises(kind: Kind) -> None:
    async def answer(data: bytes) -> bytes:
        if data == b"poison":
            raise KeyError("nobody expected it")
        return data

    await kind.bus.respond("billing", "billing.report", answer)
    refused = decode(await kind.bus.request("billing.report", b"poison", timeout=PATIENCE_SECONDS), ErrorReply)
    assert refused.reason.startswith("internal error ")
    assert refused.reason.endswith(": see the log of billing")
    assert await kind.bus.request("billing.report", b"good", timeout=PATIENCE_SECONDS) == b"good"
    assert kind.bus.rejections.counts == {"billing.report": 1}


async def test_an_object_whose_description_is_damaged_is_unreadable(bus: JetStreamBus) -> None:
    await bus.put_object(INVOICES, "good", b"1")
    (described,) = (await bus.js.get_last_msg("OBJ_invoices", "$O.invoices.M.>"),)
    for damage in (b"{", b"[" * 6000, b"7", b"{}", b"\xff"):
        await bus.publish(str(described.subject), damage)
        with pytest.raises(Unreadable, match="object invoices/good"):
            await bus.get_object(INVOICES, "good")
