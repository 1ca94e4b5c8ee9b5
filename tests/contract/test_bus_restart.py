"""What the bus on NATS promises through the death of its server, and what `provision` makes of a server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from nats.js.api import StreamInfo
from nats.js.errors import KeyNotFoundError, NotFoundError

from shared.bus import topology
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.jetstream_watch import conflict, unavailable
from shared.bus.lease import Lease
from shared.bus.ports import Changed, Entry, Received, Restarted, Synced
from shared.bus.provision import provision
from shared.bus.topology import FLEET, KEYS, LEDGER, USAGE
from shared.bus.view import View
from shared.errors import BusUnavailable
from shared.messages.codec import encode
from shared.messages.keys import KeyRecord
from tests.kit.call_recorder import CallRecorder
from tests.kit.nats_server import NatsServer
from tests.kit.waiting import PATIENCE_SECONDS, until

CURRENT_SECONDS = 10.0
"""2 s, with room for a busy machine."""


@pytest.fixture
async def other(nats_server: NatsServer) -> AsyncIterator[JetStreamBus]:
    """A second connection, as another service has it."""
    async with connect(nats_server.url, name="other", wait=PATIENCE_SECONDS) as connected:
        yield connected


async def _kill(server: NatsServer, *buses: JetStreamBus) -> None:
    """Everybody has noticed: what is asked of a dying connection waits for its whole timeout."""
    server.kill9()
    await _wait_until(lambda: not any(bus.connected for bus in buses))


async def _start(server: NatsServer, *buses: JetStreamBus) -> None:
    server.start()
    await _wait_until(lambda: all(bus.connected for bus in buses))


async def _wait_until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not done():  # noqa: ASYNC110 - the port tells whether it is connected, and calls nobody
            await asyncio.sleep(0.005)


async def test_a_watch_is_current_soon_after_the_server(
    bus: JetStreamBus, other: JetStreamBus, nats_server: NatsServer
) -> None:
    recorder = CallRecorder()
    first = await bus.put(FLEET, "m", b"1")
    await bus.watch(FLEET, recorder)
    await recorder.until(lambda: Synced() in recorder.events)
    await _kill(nats_server, bus, other)
    restarted_at = time.monotonic()
    await _start(nats_server, other)
    second = await other.put(FLEET, "m", b"2")
    await recorder.until(lambda: Changed("m", b"2", second) in recorder.events)
    assert time.monotonic() - restarted_at < CURRENT_SECONDS
    assert recorder.events[:3] == [Restarted(), Changed("m", b"1", first), Synced()]
    assert recorder.events[3] == Restarted()
    third = await other.put(FLEET, "m", b"3")
    await recorder.until(lambda: Changed("m", b"3", third) in recorder.events)
    assert recorder.events.count(Changed("m", b"3", third)) == 1  # one watch, not two


async def test_nothing_acknowledged_is_lost_and_the_consumer_goes_on(
    bus: JetStreamBus, nats_server: NatsServer
) -> None:
    for number in range(100):
        await bus.publish("usage.1", str(number).encode(), message_id=str(number))
    acked = set()
    for delivery in await bus.fetch(LEDGER, batch=40, wait=PATIENCE_SECONDS):
        await delivery.ack()
        acked.add(int(delivery.data))
    await bus.get(FLEET, "m")  # flushes the acknowledgements
    await _kill(nats_server, bus)
    await _start(nats_server, bus)
    await bus.publish("usage.1", b"0", message_id="0")  # a replay after the restart is known too
    assert [int(m.data) for m in await bus.read(USAGE)] == list(range(100))
    # The server may have died before it kept an acknowledgement: again is allowed, lost is not.
    again: list[int] = []
    while len(acked.union(again)) < 100:
        batch = await bus.fetch(LEDGER, batch=100, wait=PATIENCE_SECONDS)
        assert batch, f"never came: {set(range(100)) - acked - set(again)}"
        again += [int(delivery.data) for delivery in batch]
    assert acked
    assert again == sorted(set(again))


async def test_subscribers_and_responders_survive_a_restart(bus: JetStreamBus, nats_server: NatsServer) -> None:
    async def upper(data: bytes) -> bytes:
        return data.upper()

    recorder = CallRecorder()
    await bus.subscribe("activity.*", recorder.receive)
    await bus.respond("meter", "meter.tokens", upper)
    await _kill(nats_server, bus)
    await _start(nats_server, bus)
    await bus.publish_volatile("activity.g", b"1")
    await recorder.length(1)
    assert recorder.events == [Received("activity.g", b"1")]
    assert await bus.request("meter.tokens", b"hi", timeout=PATIENCE_SECONDS) == b"HI"


async def test_a_watch_waits_for_values_that_are_still_on_their_way(
    bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server counts what it has sent, and on a busy machine its count comes first."""
    recorder, arrive = CallRecorder(), bus.client._process_msg
    loop = asyncio.get_running_loop()

    async def late(sid: int, subject: bytes, *rest: bytes) -> None:
        if subject.startswith(b"$KV."):
            loop.call_later(0.3, lambda: asyncio.ensure_future(arrive(sid, subject, *rest)))
        else:
            await arrive(sid, subject, *rest)

    revision = await bus.put(FLEET, "m", b"1")
    monkeypatch.setattr(bus.client, "_process_msg", late)
    assert await bus.entries(FLEET) == {"m": Entry(b"1", revision)}
    await bus.watch(FLEET, recorder)
    await recorder.until(lambda: Synced() in recorder.events)
    assert recorder.events == [Restarted(), Changed("m", b"1", revision), Synced()]


async def test_reading_again_and_again_leaves_nothing_on_the_server(bus: JetStreamBus) -> None:
    await bus.put(FLEET, "m", b"1")
    for _ in range(20):
        await bus.entries(FLEET)

    async def consumers() -> int:
        return len(await bus.js.consumers_info("KV_fleet"))

    await until(consumers, lambda left: left == 0)


async def test_a_view_drops_the_entries_that_the_bus_lost(bus: JetStreamBus, nats_server: NatsServer) -> None:
    recorder = CallRecorder()
    view = View(KEYS, KeyRecord, recorder)
    for name in ("a", "b"):
        await bus.put(KEYS, name, encode(_key(name)))
    await view.start(bus)
    assert set(view) == {"a", "b"}
    await _kill(nats_server, bus)
    nats_server.lose_store()
    await _start(nats_server, bus)
    await provision(bus)
    await bus.put(KEYS, "b", encode(_key("b")))
    await recorder.until(lambda: set(view) == {"b"})
    assert view.revision("b") == 1


async def test_a_lease_passes_on_when_its_holder_falls_silent(bus: JetStreamBus) -> None:
    first = Lease(bus, "waker", "w1", time.monotonic)
    second = Lease(bus, "waker", "w2", time.monotonic)
    assert await first.renew()
    token = first.token
    assert token is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await second.renew():  # noqa: ASYNC110 - the server calls nobody when a key expires
            await asyncio.sleep(0.1)
    assert not first.held
    assert not await first.verify()
    assert second.token is not None
    assert second.token > token


async def test_a_key_that_expires_while_it_is_created_crashes_nobody() -> None:
    with pytest.raises(BusUnavailable, match="key not found"):
        async with conflict("a key exists"), unavailable("create a key"):
            raise KeyNotFoundError


async def test_provisioning_again_changes_nothing(bus: JetStreamBus) -> None:
    await bus.publish("usage.1", b"1")
    await bus.put(FLEET, "m", b"1")
    before = await bus.js.streams_info()
    await provision(bus)
    after = await bus.js.streams_info()
    assert {s.config.name: s.config for s in before} == {s.config.name: s.config for s in after}
    assert [m.data for m in await bus.read(USAGE)] == [b"1"]
    assert await bus.get(FLEET, "m") is not None


async def test_two_may_provision_at_once(bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch) -> None:
    stream_info, names = bus.js.stream_info, set[str]()

    async def not_yet_there(name: str) -> StreamInfo:
        if name not in names:  # and then the other creates it
            names.add(name)
            raise NotFoundError
        return await stream_info(name)

    monkeypatch.setattr(bus.js, "stream_info", not_yet_there)
    before = await bus.js.streams_info()
    await provision(bus)
    after = await bus.js.streams_info()
    assert {s.config.name: s.config for s in before} == {s.config.name: s.config for s in after}
    assert len(names) == len(before)


async def test_a_stream_that_differs_is_adapted(bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch) -> None:
    await bus.publish("usage.1", b"1")
    shorter = replace(USAGE, max_age=timedelta(days=7).total_seconds())
    monkeypatch.setattr(topology, "STREAMS", (shorter,))
    monkeypatch.setattr(topology, "CONSUMERS", (replace(LEDGER, ack_wait=9.0),))
    await provision(bus)
    assert (await bus.js.stream_info(USAGE.name)).config.max_age == shorter.max_age
    assert (await bus.js.consumer_info(LEDGER.stream, LEDGER.durable)).config.ack_wait == 9.0
    assert [m.data for m in await bus.read(USAGE)] == [b"1"]


async def test_a_bucket_that_differs_is_adapted(bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch) -> None:
    await bus.put(FLEET, "m", b"1")
    monkeypatch.setattr(topology, "BUCKETS", (replace(FLEET, ttl=3600.0),))
    await provision(bus)
    assert (await bus.js.stream_info("KV_fleet")).config.max_age == 3600.0
    assert await bus.get(FLEET, "m") is not None


async def test_a_missing_bus_is_reported_in_time_and_without_the_password(nats_server: NatsServer) -> None:
    nats_server.kill9()
    with pytest.raises(BusUnavailable) as refused:
        async with connect(nats_server.url.replace("//", "//user:hunter2@"), name="test", wait=0.3):
            pass
    assert "hunter2" not in str(refused.value)
    assert "within 0.3 s" in str(refused.value)


def _key(name: str) -> KeyRecord:
    return KeyRecord(id=name, name=name, created_at=1.0)


async def test_client_that_timed_out_while_the_server_hung_reads_on_at_once(
    bus: JetStreamBus, other: JetStreamBus, nats_server: NatsServer
) -> None:
    recorder = CallRecorder()
    await bus.watch(FLEET, recorder)
    await recorder.until(lambda: Synced() in recorder.events)
    nats_server.freeze()
    with pytest.raises(TimeoutError):
        await bus.client.flush(1)
    nats_server.thaw()
    began = time.monotonic()
    revision = await other.put(FLEET, "m", b"1")
    await recorder.until(lambda: any(isinstance(e, Changed) and e.revision == revision for e in recorder.events))
    assert time.monotonic() - began < CURRENT_SECONDS


async def test_a_connection_that_is_lost_while_it_closes_cancels_nobody(nats_server: NatsServer) -> None:
    async with connect(nats_server.url, name="closing", wait=PATIENCE_SECONDS) as bus:
        # What the client does to itself when it gives up a reconnection at that moment.
        transport: Any = bus.client._transport
        writer = transport._io_writer
        writer._protocol._get_close_waiter(writer).cancel()
    assert not bus.connected
