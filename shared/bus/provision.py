"""Makes a NATS server match `topology`, idempotently: run before the services, as often as one likes."""

import nats.errors
import nats.js.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    KeyValueConfig,
    ObjectStoreConfig,
    StorageType,
    StreamConfig,
)

from shared.bus import topology
from shared.bus.jetstream import JetStreamBus
from shared.errors import BusError

DEFAULT_WINDOW = 120.0
"""Seconds: the server's own for a bucket."""


async def provision(bus: JetStreamBus, *, replicas: int = 1, usage_bytes: int | None = None) -> None:
    """Create what is missing and adapt what differs.

    `usage_bytes` bounds the USAGE stream, which refuses events above it: they wait in the gateways' outboxes, and what
    steers the fleet still finds room. None: as it is, unbounded where it is new.

    Raises:
        BusError: the server refuses, or does not answer.
    """
    try:
        for stream in topology.STREAMS:
            await _stream(bus, stream, replicas, usage_bytes if stream is topology.USAGE else None)
        for consumer in topology.CONSUMERS:
            await _consumer(bus, consumer)
        for bucket in topology.BUCKETS:
            await _bucket(bus, bucket, replicas)
        for store in topology.OBJECT_STORES:
            try:
                await bus.js.object_store(store.name)
            except nats.js.errors.NotFoundError:
                await bus.js.create_object_store(store.name, config=ObjectStoreConfig(replicas=replicas))
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
        raise BusError(f"the bus could not be provisioned: {error}") from error


async def _stream(bus: JetStreamBus, stream: topology.Stream, replicas: int, max_bytes: int | None) -> None:
    wanted = StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_age=stream.max_age,
        max_bytes=-1 if max_bytes is None else max_bytes,
        max_msgs_per_subject=1 if stream.last_per_subject else -1,
        discard=DiscardPolicy.NEW if stream.discard_new else DiscardPolicy.OLD,
        deny_delete=stream.keep_for_good,
        deny_purge=stream.keep_for_good,
        duplicate_window=stream.duplicate_window,
    )
    try:
        found = (await bus.js.stream_info(stream.name)).config
    except nats.js.errors.NotFoundError:
        await bus.js.add_stream(wanted)
    else:
        await bus.js.update_stream(wanted if max_bytes is not None else wanted.evolve(max_bytes=found.max_bytes))


async def _bucket(bus: JetStreamBus, bucket: topology.Bucket, replicas: int) -> None:
    wanted = KeyValueConfig(
        bucket=bucket.name, history=1, ttl=bucket.ttl, storage=StorageType.FILE, replicas=replicas, direct=False
    )
    try:
        found = (await bus.js.stream_info(f"KV_{bucket.name}")).config
    except nats.js.errors.NotFoundError:
        await bus.js.create_key_value(wanted)
    else:
        # A bucket is a stream. Its window for message ids may not be longer than its keys live.
        window = min(bucket.ttl or DEFAULT_WINDOW, DEFAULT_WINDOW)
        await bus.js.update_stream(
            found.evolve(max_age=bucket.ttl or 0.0, duplicate_window=window, num_replicas=replicas)
        )


async def _consumer(bus: JetStreamBus, consumer: topology.Consumer) -> None:
    # Creating a durable with the same name adapts it.
    await bus.js.add_consumer(
        consumer.stream,
        ConsumerConfig(
            durable_name=consumer.durable,
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=consumer.ack_wait,
            max_ack_pending=consumer.max_ack_pending,
            max_deliver=-1,
        ),
    )
