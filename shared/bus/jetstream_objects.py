"""Stores and fetches objects in NATS, piece by piece, and checks them against their digest."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import nats.js.errors
from nats.js import JetStreamContext
from nats.js.object_store import ObjectStore as NatsStore

from shared.bus.jetstream_watch import unavailable
from shared.bus.topology import ObjectStore
from shared.errors import BusUnavailable
from shared.messages.codec import Unreadable

OBJECT_SECONDS = 300.0
"""For one object in either direction: some gigabytes on a slow disk."""


@contextmanager
def _readable(store: ObjectStore, name: str) -> Iterator[None]:
    """The client reads an object's description as JSON from the bus. Turn what is wrong with it into `Unreadable`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(f"object {store.name}/{name}: {type(error).__name__}: {error}") from error


async def put(js: JetStreamContext, store: ObjectStore, name: str, data: bytes | BinaryIO) -> None:
    with _readable(store, name):
        async with unavailable(f"put object {store.name}/{name}"), asyncio.timeout(OBJECT_SECONDS):
            await (await js.object_store(store.name)).put(name, cast("bytes", data))  # any reader will do


async def get(
    js: JetStreamContext, store: ObjectStore, name: str, into: BinaryIO | None = None
) -> NatsStore.ObjectResult | None:
    """Return the object with its data, unless that went `into` a file. None if there is no such object."""
    try:
        with _readable(store, name):
            async with unavailable(f"get object {store.name}/{name}"), asyncio.timeout(OBJECT_SECONDS):
                objects = await js.object_store(store.name)
                return await objects.get(name, writeinto=into)  # type: ignore[arg-type]  # a file
    except BusUnavailable as error:
        if isinstance(error.__cause__, nats.js.errors.NotFoundError):
            return None
        if isinstance(error.__cause__, nats.js.errors.BadObjectMetaError):
            raise Unreadable(f"object {store.name}/{name}: {error.__cause__}") from error
        raise
