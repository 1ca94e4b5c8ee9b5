"""What one user of the bus does by the server's hand, with headers and reply subjects that no permission covers."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from msgspec.json import encode

from shared.bus import subjects
from shared.bus.access import USER, BusAccess
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.permissions import Role
from shared.bus.ports import Received
from shared.bus.provision import provision
from shared.bus.topology import BOOKS, BUCKETS, KEYS, LEASES, LEDGER, METER, USAGE
from shared.key_records import SavedKey, merge_keys
from shared.messages.keys import KeyRecord
from spotinference.keys.store import read_keys
from spotinference.nats_config.server_config import authorization
from spotinference.nats_config.users import open_users
from tests.kit.nats_server import NatsServer
from tests.kit.waiting import PATIENCE_SECONDS, until

Connect = Callable[[Role], AbstractAsyncContextManager[JetStreamBus]]


@pytest.fixture
async def connect_as(nats_server: NatsServer, tmp_path: Path) -> Connect:
    """Connects as a user to a bus that is provisioned."""
    users = tmp_path / "users"
    nats_server.more = authorization(open_users(users))
    nats_server.restart()
    access = BusAccess(urls=(nats_server.url,), nkey_file=users / f"{USER}.nk")

    def of(role: Role) -> AbstractAsyncContextManager[JetStreamBus]:
        return connect(access.for_role(role), name=role, wait=PATIENCE_SECONDS)

    async with of("setup") as setup:
        await provision(setup)
        await provision(setup)
    return of


async def test_a_rollup_removes_nothing_from_a_bucket_of_several_writers(connect_as: Connect) -> None:
    async with connect_as("waker") as waker, connect_as("meter") as meter, connect_as("setup") as setup:
        await meter.put(LEASES, subjects.METER_LEASE, b"holder")
        subject = f"$KV.{LEASES.name}.{subjects.WAKER_LEASE}"
        await waker.client.publish(subject, b"mine", headers={"Nats-Rollup": "all"})
        await waker.client.flush()
        assert await meter.get(LEASES, subjects.METER_LEASE) is not None
        configs = [(await setup.js.stream_info(f"KV_{bucket.name}")).config for bucket in BUCKETS]
        assert not any(config.allow_rollup_hdrs for config in configs)


async def test_an_imported_key_replaces_a_servers_answer_that_was_stored_over_it(connect_as: Connect) -> None:
    key = SavedKey(digest="a" * 64, record=KeyRecord(id="k1", name="customer", created_at=1.0))
    async with connect_as("operator") as operator, connect_as("gateway") as gateway:
        assert (await merge_keys(operator, [key])).returned == 1
        info = f"$JS.API.STREAM.INFO.KV_{KEYS.name}"
        await gateway.client.publish(info, b"", reply=f"$KV.{KEYS.name}.{key.digest}")

        async def readable() -> int:
            return len(await read_keys(operator))

        await until(readable, lambda count: count == 0)
        assert (await merge_keys(operator, [key])).returned == 1
        assert await readable() == 1


async def test_provision_takes_rollups_from_a_bucket_that_allows_them(bus: JetStreamBus) -> None:
    config = (await bus.js.stream_info(f"KV_{KEYS.name}")).config
    await bus.js.update_stream(config.evolve(allow_rollup_hdrs=True))
    await provision(bus)
    assert not (await bus.js.stream_info(f"KV_{KEYS.name}")).config.allow_rollup_hdrs


async def test_a_stored_message_is_no_order_when_its_reader_has_it_sent_to_a_responder(connect_as: Connect) -> None:
    orders: list[bytes] = []

    async def obey(data: bytes) -> bytes:
        orders.append(data)
        return b""

    async with connect_as("waker") as waker, connect_as("billing") as billing:
        await waker.respond("waker", subjects.WAKER_COMMAND, obey)
        await billing.publish(subjects.budget_journal("fleet"), b"an order")
        following = f"$JS.API.CONSUMER.MSG.NEXT.{BOOKS.stream}.{BOOKS.durable}"
        await billing.client.publish(following, b"1", reply=subjects.WAKER_COMMAND)

        async def rejected() -> int:
            return waker.rejections.counts[subjects.WAKER_COMMAND] + len(orders)

        await until(rejected, bool)
        assert orders == []


async def test_a_stored_message_is_not_handled_when_it_is_pushed_to_a_subscriber(connect_as: Connect) -> None:
    handled: list[Received] = []

    async def handle(message: Received) -> None:
        handled.append(message)

    async with connect_as("waker") as waker, connect_as("meter") as meter:
        await waker.subscribe(subjects.ACTIVITIES, handle)
        await meter.put(METER, "activity", b"a lie")
        await meter.client.subscribe("activity.gateway")
        consumer = {"name": "c", "deliver_subject": "activity.gateway", "ack_policy": "none"}
        create = f"$JS.API.CONSUMER.CREATE.KV_{METER.name}.c"
        body = {"stream_name": f"KV_{METER.name}", "config": consumer}
        await meter.js._api_request(create, encode(body))

        async def rejected() -> int:
            return waker.rejections.counts[subjects.ACTIVITIES] + len(handled)

        await until(rejected, bool)
        assert handled == []


async def test_a_message_of_another_stream_is_not_read_when_it_is_stored_in_one(connect_as: Connect) -> None:
    async with connect_as("meter") as meter, connect_as("billing") as billing, connect_as("gateway") as gateway:
        await billing.publish(subjects.budget_journal("fleet"), b"forged usage")
        following = f"$JS.API.CONSUMER.MSG.NEXT.{BOOKS.stream}.{BOOKS.durable}"
        await billing.client.publish(following, b"1", reply=subjects.usage("source"))

        async def is_stored() -> int:
            return (await meter.js.stream_info(USAGE.name)).state.messages

        await until(is_stored, bool)
        await gateway.publish(subjects.usage("source"), b"usage")
        page = await meter.page(USAGE, after=0, most=10)
        assert [message.data for message in page.messages] == [b"usage"]
        assert page.last == page.end == 2
        async with connect_as("setup") as setup:
            assert [message.data for message in await setup.read(USAGE)] == [b"usage"]
        assert [delivery.data for delivery in await meter.fetch(LEDGER, batch=10, wait=1.0)] == [b"usage"]
