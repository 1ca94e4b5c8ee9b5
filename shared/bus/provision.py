"""Makes a NATS server match `topology`. It is idempotent, and runs before the services start."""

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
"""Seconds: the server's default for a bucket."""


async def provision(bus: JetStreamBus, *, replicas: int = 1, usage_bytes: int | None = None) -> None:
    """Create what is missing and update what differs.

    `usage_bytes` bounds the USAGE stream. Above it the stream rejects events, which wait in the gateways' outboxes, so
    that fleet messages still find room. None leaves the bound as it is; a new stream is then unbounded.

    Raises:
        BusError: the server rejects a call, or does not answer.
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
    config = StreamConfig(
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
        existing = (await bus.js.stream_info(stream.name)).config
    except nats.js.errors.NotFoundError:
        await bus.js.add_stream(config)
    else:
        await bus.js.update_stream(config if max_bytes is not None else config.evolve(max_bytes=existing.max_bytes))


async def _bucket(bus: JetStreamBus, bucket: topology.Bucket, replicas: int) -> None:
    config = KeyValueConfig(
        bucket=bucket.name, history=1, ttl=bucket.ttl, storage=StorageType.FILE, replicas=replicas, direct=False
    )
    try:
        existing = (await bus.js.stream_info(f"KV_{bucket.name}")).config
    except nats.js.errors.NotFoundError:
        await bus.js.create_key_value(config)
    else:
        # A bucket is a stream. Its window for message ids must not be longer than its keys live.
        window = min(bucket.ttl or DEFAULT_WINDOW, DEFAULT_WINDOW)
        await bus.js.update_stream(
            existing.evolve(max_age=bucket.ttl or 0.0, duplicate_window=window, num_replicas=replicas)
        )


async def _consumer(bus: JetStreamBus, consumer: topology.Consumer) -> None:
    # Creating a durable consumer with the same name updates it.
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
