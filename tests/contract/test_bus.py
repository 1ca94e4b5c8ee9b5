"""What every bus promises, shown on the one in memory and on a real server."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from shared.bus import jetstream_pull, topology
from shared.bus.jetstream import CALL_SECONDS, connect
from shared.bus.lease import Lease
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus, Changed, Received, Restarted, Synced
from shared.bus.provision import _consumer, provision
from shared.bus.topology import FLEET, FLEET_JOURNAL, INVOICES, KEYS, LEDGER, USAGE, WAKE
from shared.bus.view import View
from shared.errors import BusUnavailable, Conflict
from shared.messages.codec import encode
from shared.messages.keys import KeyRecord
from tests.kit.call_recorder import CallRecorder
from tests.kit.nats_server import NatsServer
from tests.kit.waiting import PATIENCE_SECONDS

ACK_WAIT = 1.0


@dataclass
class Kind:
    """A bus to be tried, and what each of its kind needs a hand with."""

    bus: Bus
    expire: Callable[[], Awaitable[None]]
    """What was fetched from `LEDGER` and not acknowledged is due again, at the latest soon."""
    cut: Callable[[], Awaitable[None]]
    """The server is gone, and the bus has noticed."""


async def _wait_until_lost(bus: Bus) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while bus.connected:  # noqa: ASYNC110 - the port tells it, and calls nobody
            await asyncio.sleep(0.005)


@pytest.fixture(params=["memory", "nats"])
async def kind(request: pytest.FixtureRequest) -> AsyncIterator[Kind]:
    if request.param == "memory":
        memory = MemoryBus()

        async def redeliver() -> None:
            memory.redeliver(LEDGER)

        async def disconnect() -> None:
            memory.connected = False

        yield Kind(memory, redeliver, disconnect)
        return
    server: NatsServer = request.getfixturevalue("nats_server")
    async with connect(server.url, name="test", wait=PATIENCE_SECONDS) as bus:
        await provision(bus)
        await _consumer(bus, replace(LEDGER, ack_wait=ACK_WAIT))

        async def passes_by_itself() -> None:
            """The server redelivers after the acknowledgement wait; the fetch that follows waits for it."""

        async def kill() -> None:
            server.kill9()
            await _wait_until_lost(bus)

        yield Kind(bus, passes_by_itself, kill)


@pytest.fixture
def any_bus(kind: Kind) -> Bus:
    return kind.bus


async def test_a_message_id_is_stored_once(any_bus: Bus) -> None:
    await any_bus.publish("usage.1", b"first", message_id="a")
    await any_bus.publish("usage.1", b"again", message_id="a")
    await any_bus.publish("usage.1", b"other", message_id="b")
    assert [m.data for m in await any_bus.read(USAGE)] == [b"first", b"other"]


async def test_many_are_stored_in_order_and_each_id_once(any_bus: Bus) -> None:
    many = [(f"usage.{number % 3}", b"%d" % number, f"id{number}") for number in range(300)]
    await any_bus.publish_all(many[:1])
    await any_bus.publish_all(many)
    await any_bus.publish_all(many[100:200])
    await any_bus.publish("usage.1", b"again", message_id="id299")
    assert [(m.subject, m.data) for m in await any_bus.read(USAGE)] == [(to, data) for to, data, _ in many]


async def test_publish_fails_for_a_subject_that_no_stream_owns(any_bus: Bus) -> None:
    with pytest.raises(BusUnavailable):
        await any_bus.publish("nowhere.1", b"lost")
    with pytest.raises(BusUnavailable):
        await any_bus.publish_all([("usage.1", b"kept", "a"), ("nowhere.1", b"lost", "b")])


async def test_read_gives_what_the_stream_holds_under_a_subject_oldest_first(any_bus: Bus) -> None:
    assert await any_bus.read(FLEET_JOURNAL) == []
    for number in range(300):
        await any_bus.publish(f"fleet.journal.m{number % 2}", str(number).encode())
    assert [int(m.data) for m in await any_bus.read(FLEET_JOURNAL)] == list(range(300))
    odd = await any_bus.read(FLEET_JOURNAL, "fleet.journal.m1")
    assert [int(m.data) for m in odd] == list(range(1, 300, 2))
    assert {m.subject for m in odd} == {"fleet.journal.m1"}


async def test_a_stream_is_read_page_by_page_beside_its_consumers(any_bus: Bus) -> None:
    assert (await any_bus.page(USAGE, after=0, most=10)).messages == []
    for n in range(3):
        await any_bus.publish("usage.0", f"early{n}".encode())
    assert len(await any_bus.fetch(LEDGER, batch=10, wait=1.0)) == 3
    await asyncio.sleep(0.01)
    middle = time.time()
    for n in range(4):
        await any_bus.publish(f"usage.{n}", f"late{n}".encode())

    async def everything(since: float | None, most: int) -> list[str]:
        everything_read, page = [], await any_bus.page(USAGE, after=0, since=since, most=most)
        while True:
            assert len(page.messages) <= most
            everything_read += [m.data.decode() for m in page.messages]
            if page.last >= page.end:
                return everything_read
            page = await any_bus.page(USAGE, after=page.last, since=since, most=most)

    late = [f"late{n}" for n in range(4)]
    for most in (1, 2, 100):
        assert await everything(None, most) == ["early0", "early1", "early2", *late]
        assert await everything(middle, most) == late
    assert await everything(time.time() + 60.0, 100) == []
    assert [d.data.decode() for d in await any_bus.fetch(LEDGER, batch=10, wait=1.0)] == late, "they took nothing away"


async def test_last_is_the_newest_of_exactly_this_subject(any_bus: Bus) -> None:
    assert await any_bus.last(WAKE, "wake.request.a") is None
    for data in (b"1", b"2"):
        await any_bus.publish("wake.request.a", data)
    await any_bus.publish("wake.request.b", b"3")
    newest = await any_bus.last(WAKE, "wake.request.a")
    assert newest is not None
    assert newest.data == b"2"
    assert 0.0 <= newest.age_s < PATIENCE_SECONDS
    assert len(await any_bus.read(WAKE)) == 2  # the stream keeps one of each


async def test_a_consumer_gets_only_unacknowledged_messages_again(kind: Kind) -> None:
    for number in range(5):
        await kind.bus.publish("usage.1", str(number).encode())
    first = await kind.bus.fetch(LEDGER, batch=3, wait=PATIENCE_SECONDS)
    assert [d.data for d in first] == [b"0", b"1", b"2"]
    assert [(d.subject, d.sequence) for d in first] == [("usage.1", 1), ("usage.1", 2), ("usage.1", 3)]
    await first[0].ack()
    await first[2].ack()
    rest = await kind.bus.fetch(LEDGER, batch=2, wait=PATIENCE_SECONDS)
    assert [d.data for d in rest] == [b"3", b"4"]
    for delivery in rest:
        await delivery.ack()
    await kind.expire()
    again = await kind.bus.fetch(LEDGER, batch=10, wait=PATIENCE_SECONDS)
    assert [d.data for d in again] == [b"1"]
    await again[0].ack()
    await kind.expire()
    assert await kind.bus.fetch(LEDGER, batch=10, wait=2 * ACK_WAIT) == []


async def test_a_fetch_ends_with_the_first_message_and_not_with_the_wait(any_bus: Bus) -> None:
    fetched = asyncio.create_task(any_bus.fetch(LEDGER, batch=100, wait=10 * PATIENCE_SECONDS))
    assert await any_bus.read(USAGE) == []  # meanwhile the fetch waits
    await any_bus.publish("usage.1", b"x")
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert [d.data for d in await fetched] == [b"x"]


async def test_create_conflicts_when_the_key_exists(any_bus: Bus) -> None:
    assert await any_bus.get(FLEET, "m") is None
    first = await any_bus.create(FLEET, "m", b"1")
    with pytest.raises(Conflict):
        await any_bus.create(FLEET, "m", b"2")
    await any_bus.delete(FLEET, "m")
    assert await any_bus.get(FLEET, "m") is None
    assert await any_bus.create(FLEET, "m", b"3") > first
    entry = await any_bus.get(FLEET, "m")
    assert entry is not None
    assert entry.value == b"3"


async def test_update_replaces_exactly_the_revision_named(any_bus: Bus) -> None:
    first = await any_bus.put(FLEET, "m", b"1")
    second = await any_bus.update(FLEET, "m", b"2", revision=first)
    assert second > first
    with pytest.raises(Conflict):
        await any_bus.update(FLEET, "m", b"3", revision=first)
    await any_bus.delete(FLEET, "m")
    with pytest.raises(Conflict):
        await any_bus.update(FLEET, "m", b"4", revision=second)


async def test_delete_spares_what_was_written_since_the_revision_named(any_bus: Bus) -> None:
    first = await any_bus.put(FLEET, "m", b"1")
    second = await any_bus.update(FLEET, "m", b"2", revision=first)
    with pytest.raises(Conflict):
        await any_bus.delete(FLEET, "m", revision=first)
    await any_bus.delete(FLEET, "m", revision=second)
    assert await any_bus.get(FLEET, "m") is None
    with pytest.raises(Conflict):
        await any_bus.delete(FLEET, "m", revision=second)


async def test_entries_are_the_whole_bucket_and_no_other(any_bus: Bus) -> None:
    assert await any_bus.entries(FLEET) == {}
    revisions = [await any_bus.put(FLEET, key, key.encode()) for key in ("a", "b", "c")]
    await any_bus.put(KEYS, "d", b"d")
    await any_bus.delete(FLEET, "b")
    everything_read = await any_bus.entries(FLEET)
    assert {key: (e.value, e.revision) for key, e in everything_read.items()} == {
        "a": (b"a", revisions[0]),
        "c": (b"c", revisions[2]),
    }


async def test_a_watch_delivers_the_bucket_then_each_change(any_bus: Bus) -> None:
    recorder = CallRecorder()
    first = await any_bus.put(FLEET, "a", b"1")
    handle = await any_bus.watch(FLEET, recorder)
    await recorder.until(lambda: Synced() in recorder.events)
    assert recorder.events == [Restarted(), Changed("a", b"1", first), Synced()]
    second = await any_bus.put(FLEET, "a", b"2")
    await recorder.length(4)  # a bucket without history delivers the newest values only
    await any_bus.delete(FLEET, "a")
    await recorder.length(5)
    gone = recorder.events[4]
    assert recorder.events[3] == Changed("a", b"2", second)
    assert isinstance(gone, Changed)
    assert (gone.key, gone.value) == ("a", None)
    await handle.stop()
    await any_bus.put(FLEET, "a", b"3")
    await any_bus.entries(FLEET)
    assert len(recorder.events) == 5


async def test_a_view_follows_the_bucket(any_bus: Bus) -> None:
    recorder = CallRecorder()
    view = View(KEYS, KeyRecord, recorder)
    await any_bus.put(KEYS, "a", encode(_key("a")))
    await view.start(any_bus)
    assert dict(view) == {"a": _key("a")}
    revision = await any_bus.put(KEYS, "b", encode(_key("b")))
    await recorder.until(lambda: "b" in view)
    assert view.revision("b") == revision
    await any_bus.delete(KEYS, "a")
    await recorder.until(lambda: "a" not in view)
    assert recorder.events == ["a", "b", "a"]
    await view.stop()


async def test_objects_are_kept_and_replaced(any_bus: Bus) -> None:
    assert await any_bus.get_object(INVOICES, "a.csv") is None
    large = bytes(300_000)
    await any_bus.put_object(INVOICES, "a.csv", large)
    assert await any_bus.get_object(INVOICES, "a.csv") == large
    await any_bus.put_object(INVOICES, "a.csv", b"small")
    assert await any_bus.get_object(INVOICES, "a.csv") == b"small"


async def test_an_object_goes_from_file_to_file(any_bus: Bus, tmp_path: Path) -> None:
    data = bytes(range(256)) * 2000
    (tmp_path / "from").write_bytes(data)
    with (tmp_path / "from").open("rb") as file:
        await any_bus.put_object(INVOICES, "b.csv", file)
    with (tmp_path / "to").open("wb") as file:
        assert await any_bus.copy_object(INVOICES, "b.csv", file)
        assert not await any_bus.copy_object(INVOICES, "c.csv", file)
    assert (tmp_path / "to").read_bytes() == data


async def test_subscribers_receive_what_is_published_while_subscribed(any_bus: Bus) -> None:
    recorder = CallRecorder()
    handle = await any_bus.subscribe("activity.*", recorder.receive)
    await any_bus.publish_volatile("activity.g1", b"1")
    await any_bus.publish_volatile("other.g1", b"2")
    await any_bus.publish_volatile("activity.g2", b"3")
    await recorder.length(2)
    assert recorder.events == [Received("activity.g1", b"1"), Received("activity.g2", b"3")]
    await handle.stop()


async def test_subscribers_receive_stored_messages_too(any_bus: Bus) -> None:
    recorder = CallRecorder()
    await any_bus.subscribe("wake.request.>", recorder.receive)
    await any_bus.publish("wake.request.m", b"1")
    await recorder.length(1)
    assert recorder.events == [Received("wake.request.m", b"1")]


async def test_requests_are_answered(any_bus: Bus) -> None:
    async def upper(data: bytes) -> bytes:
        return data.upper()

    handle = await any_bus.respond("meter", "meter.tokens", upper)
    assert await any_bus.request("meter.tokens", b"hi", timeout=PATIENCE_SECONDS) == b"HI"
    await handle.stop()
    with pytest.raises(BusUnavailable):
        await any_bus.request("meter.tokens", b"hi", timeout=PATIENCE_SECONDS)


async def test_a_request_that_nobody_answers_in_time_is_unavailable(any_bus: Bus) -> None:
    async def never(data: bytes) -> bytes:
        await asyncio.Event().wait()
        return data

    await any_bus.respond("meter", "meter.tokens", never)
    with pytest.raises(BusUnavailable):
        await any_bus.request("meter.tokens", b"hi", timeout=0.05)


async def test_one_lease_one_holder_and_a_higher_token_for_the_next(any_bus: Bus) -> None:
    first = Lease(any_bus, "waker", "w1", time.monotonic)
    second = Lease(any_bus, "waker", "w2", time.monotonic)
    assert await first.renew()
    token = first.token
    assert token is not None
    assert not await second.renew()
    assert await first.renew()
    assert (first.token, await first.verify(), await second.verify()) == (token, True, False)
    await first.release()
    assert not first.held
    assert await second.renew()
    assert second.token is not None
    assert second.token > token
    assert (await first.verify(), await second.verify()) == (False, True)


async def test_a_leader_notices_that_it_was_replaced(any_bus: Bus) -> None:
    first = Lease(any_bus, "waker", "w1", time.monotonic)
    second = Lease(any_bus, "waker", "w2", time.monotonic)
    assert await first.renew()
    await any_bus.delete(topology.LEASES, "waker")
    assert await second.renew()
    assert (first.held, await first.verify()) == (True, False)
    assert not await first.renew()
    assert first.token is None


async def test_every_call_fails_at_once_while_the_server_is_gone(kind: Kind) -> None:
    bus = kind.bus
    await kind.cut()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: bus.publish("usage.1", b""),
        lambda: bus.publish_all([("usage.1", b"", "a")]),
        lambda: bus.publish_volatile("activity.g", b""),
        lambda: bus.last(WAKE, "wake.request.a"),
        lambda: bus.read(USAGE),
        lambda: bus.fetch(LEDGER, batch=1, wait=30.0),
        lambda: bus.get(FLEET, "a"),
        lambda: bus.put(FLEET, "a", b""),
        lambda: bus.create(FLEET, "a", b""),
        lambda: bus.update(FLEET, "a", b"", revision=1),
        lambda: bus.delete(FLEET, "a"),
        lambda: bus.entries(FLEET),
        lambda: bus.put_object(INVOICES, "a", b""),
        lambda: bus.get_object(INVOICES, "a"),
        lambda: bus.request("meter.tokens", b"", timeout=30.0),
    ]
    began = time.monotonic()
    for call in calls:
        with pytest.raises(BusUnavailable):
            await call()
    assert time.monotonic() - began < CALL_SECONDS, "none of them has waited for its timeout"


async def test_publish_all_fails_when_its_connection_was_lost(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(nats_server.url, name="test", wait=PATIENCE_SECONDS) as bus:
        await provision(bus)
        publish = bus.js.publish

        async def after_a_restart(subject: str, payload: bytes, **options: Any) -> object:
            nats_server.restart()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (bus.client.stats["reconnects"] and bus.connected):  # noqa: ASYNC110 - the client calls nobody here
                    await asyncio.sleep(0.005)
            return await publish(subject, payload, **options)

        monkeypatch.setattr(bus.js, "publish", after_a_restart)
        with pytest.raises(BusUnavailable, match="connection was lost"):
            await bus.publish_all([("usage.1", b"1", "a"), ("usage.1", b"2", "b")])


async def test_a_fetch_is_bounded_in_bytes_and_a_larger_message_comes_alone(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream_pull, "MAX_BYTES", 5000)
    sizes = [1000, 1000, 1000, 1000, 1000, 9000, 1000]
    async with connect(nats_server.url, name="test", wait=PATIENCE_SECONDS) as bus:
        await provision(bus)
        for size in sizes:
            await bus.publish("usage.1", b"x" * size)
        fetches: list[list[int]] = []
        while sum(map(sum, fetches)) < sum(sizes):
            deliveries = await bus.fetch(LEDGER, batch=100, wait=PATIENCE_SECONDS)
            fetches.append([len(delivery.data) for delivery in deliveries])
        assert [size for fetched in fetches for size in fetched] == sizes
        assert [9000] in fetches
        assert all(sum(fetched) <= 5000 for fetched in fetches if fetched != [9000])
        page = await bus.page(USAGE, after=0, most=100)
        assert 0 < sum(len(message.data) for message in page.messages) <= 5000


def _key(name: str) -> KeyRecord:
    return KeyRecord(id=name, name=name, created_at=1.0)
