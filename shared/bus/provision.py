"""Makes a NATS server match `topology`. It is idempotent, and runs before the services start."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import nats.errors
import nats.js.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
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

    `replicas` is how many servers of a cluster have a copy of each stream. An existing stream may have more, never
    fewer: the count is raised and not lowered. Two on a cluster at once can get in each other's way: repeat it then.
    `usage_bytes` bounds the USAGE stream. Above it the stream rejects events, which wait in the gateways' outboxes, so
    that fleet messages still find room. None leaves the bound as it is; a new stream is then unbounded.

    Raises:
        BusError: the server rejects a call, or does not answer.
    """
    try:
        for stream in topology.STREAMS:
            settings = stream_settings(stream, usage_bytes if stream is topology.USAGE else None)
            new_stream = StreamConfig(name=stream.name, storage=StorageType.FILE, num_replicas=replicas, **settings)
            await _ensure(bus, stream.name, settings, replicas, partial(bus.js.add_stream, new_stream))
        for consumer in topology.CONSUMERS:
            await _consumer(bus, consumer)
        for bucket in topology.BUCKETS:
            new_stream = _stream_of(bucket, replicas)
            create = partial(bus.js.add_stream, new_stream)
            await _ensure(bus, f"KV_{bucket.name}", bucket_settings(bucket), replicas, create)
        for store in topology.OBJECT_STORES:
            create_store = partial(bus.js.create_object_store, store.name, ObjectStoreConfig(replicas=replicas))
            await _ensure(bus, f"OBJ_{store.name}", {}, replicas, create_store)
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
        raise BusError(f"the bus could not be provisioned: {error}") from error


def stream_settings(stream: topology.Stream, max_bytes: int | None) -> dict[str, Any]:
    """Return what the topology says about a stream. Without `max_bytes`, its bound is not part of it."""
    settings: dict[str, Any] = {
        "subjects": list(stream.subjects),
        "max_age": stream.max_age or 0.0,
        "max_msgs_per_subject": 1 if stream.last_per_subject else -1,
        "discard": DiscardPolicy.NEW if stream.discard_new else DiscardPolicy.OLD,
        "deny_delete": stream.keep_for_good,
        "deny_purge": stream.keep_for_good,
        "duplicate_window": stream.duplicate_window,
    }
    return settings if max_bytes is None else {**settings, "max_bytes": max_bytes}


def bucket_settings(bucket: topology.Bucket) -> dict[str, Any]:
    """Return what the topology says about a bucket, which is a stream."""
    return {
        "max_age": bucket.ttl or 0.0,
        # Not longer than its keys live.
        "duplicate_window": min(bucket.ttl or DEFAULT_WINDOW, DEFAULT_WINDOW),
        # A header would remove every writer's keys.
        "allow_rollup_hdrs": False,
    }


def stream_change(existing: StreamConfig, settings: Mapping[str, Any], replicas: int) -> StreamConfig | None:
    """Return what an existing stream has to become; None if it already is.

    Replicas are added and never taken away. What `settings` does not name is the operator's, such as the placement.
    """
    changed = existing.evolve(**settings, num_replicas=max(existing.num_replicas or 1, replicas))
    return None if changed == existing else changed


async def _ensure(
    bus: JetStreamBus, name: str, settings: Mapping[str, Any], replicas: int, create: Callable[[], Awaitable[object]]
) -> None:
    """Make a stream what it should be, whether or not it exists, and whoever else does the same now."""
    if await _update(bus, name, settings, replicas):
        return
    try:
        await create()
    except nats.js.errors.BadRequestError:  # another may have created it meanwhile
        if not await _update(bus, name, settings, replicas):
            raise


async def _update(bus: JetStreamBus, name: str, settings: Mapping[str, Any], replicas: int) -> bool:
    """Make an existing stream what it should be. Return False if there is none of this name."""
    try:
        existing = (await bus.js.stream_info(name)).config
    except nats.js.errors.NotFoundError:
        return False
    change = stream_change(existing, settings, replicas)
    if change is not None:
        await bus.js.update_stream(change)
    return True


def _stream_of(bucket: topology.Bucket, replicas: int) -> StreamConfig:
    """Return a new bucket's stream. The client's own call has other settings, to be changed afterwards."""
    return StreamConfig(
        name=f"KV_{bucket.name}",
        subjects=[f"$KV.{bucket.name}.>"],
        max_msgs_per_subject=1,
        discard=DiscardPolicy.NEW,
        deny_delete=True,
        allow_direct=False,
        allow_msg_ttl=True,
        storage=StorageType.FILE,
        num_replicas=replicas,
        **bucket_settings(bucket),
    )


async def _consumer(bus: JetStreamBus, consumer: topology.Consumer) -> None:
    # Creating a durable consumer with the same name updates it.
    await bus.js.add_consumer(
        consumer.stream,
        ConsumerConfig(
            durable_name=consumer.durable,
            # The server can be made to store another stream's message in this one. It keeps its subject.
            filter_subject=consumer.subject,
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=consumer.ack_wait,
            max_ack_pending=consumer.max_ack_pending,
            max_deliver=-1,
        ),
    )
