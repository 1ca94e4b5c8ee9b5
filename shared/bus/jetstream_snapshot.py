"""Saves whole streams as the server packs them, and restores them with their sequences, times and consumers.

Buckets and object stores are streams too. The client has no calls for this part of JetStream's API.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import msgspec
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.bus.jetstream import JetStreamBus
from shared.bus.jetstream_watch import unavailable
from shared.errors import BusError, Rejected
from shared.messages.codec import decode, encode

CALL_SECONDS = 30.0
"""For one call or one piece: the server reads or writes the disk before it answers."""
PIECE_BYTES = 128 * 1024
API = "$JS.API.STREAM"
NOT_FOUND = 404


class _Fault(msgspec.Struct, frozen=True):
    code: int = 0
    description: str = "no reason given"


class StreamDescription(msgspec.Struct, frozen=True):
    """A stream's configuration and state, in the server's own form."""

    config: dict[str, Any] = msgspec.field(default_factory=dict)
    state: dict[str, Any] = msgspec.field(default_factory=dict)
    error: _Fault | None = None

    def messages(self) -> list[Any]:
        """Return what two descriptions share if the streams hold the same messages."""
        return [self.state.get(name) for name in ("messages", "first_seq", "first_ts", "last_seq", "last_ts")]


class _SnapshotRequest(msgspec.Struct, frozen=True):
    deliver_subject: str
    chunk_size: int = PIECE_BYTES
    no_consumers: bool = False


class _RestoreRequest(msgspec.Struct, frozen=True):
    config: dict[str, Any]
    state: dict[str, Any]


class _RestoreReply(msgspec.Struct, frozen=True):
    deliver_subject: str = ""
    error: _Fault | None = None


async def save_stream(bus: JetStreamBus, name: str, into: BinaryIO) -> StreamDescription:
    """Write the stream into a file, and return its description.

    Raises:
        BusError: the server cannot do that now.
    """
    client, inbox = bus.client, bus.client.new_inbox()
    async with unavailable(f"save stream {name}"):
        subscription = await client.subscribe(inbox)
        try:
            request = encode(_SnapshotRequest(deliver_subject=inbox))
            reply = await client.request(f"{API}.SNAPSHOT.{name}", request, timeout=CALL_SECONDS)
            description = decode(reply.data, StreamDescription)
            if description.error is not None:
                raise BusError(f"save stream {name}: {description.error.description}")
            while (piece := await subscription.next_msg(CALL_SECONDS)).data:
                await asyncio.to_thread(into.write, piece.data)
                if piece.reply:
                    await piece.respond(b"")  # the server sends a few megabytes ahead, and then waits for this
            _check_end(name, piece)
        finally:
            await subscription.unsubscribe()
    return description


def _check_end(name: str, last: Msg) -> None:
    status = (last.headers or {}).get("Status", "204")
    if status not in ("204", "200"):
        raise BusError(f"save stream {name}: the server stopped with status {status}")


async def restore_stream(
    bus: JetStreamBus, name: str, description: StreamDescription, source: BinaryIO, *, replicas: int
) -> None:
    """Restore a stream; there must be none of this name.

    Raises:
        BusError: the server cannot do that now, or does not accept the file.
    """
    config = description.config | {"num_replicas": replicas}
    async with unavailable(f"restore stream {name}"):
        request = encode(_RestoreRequest(config=config, state=description.state))
        reply = await bus.client.request(f"{API}.RESTORE.{name}", request, timeout=CALL_SECONDS)
        accepted = decode(reply.data, _RestoreReply)
        _raise_fault(name, accepted.error)
        while piece := await asyncio.to_thread(source.read, PIECE_BYTES):
            await bus.client.request(accepted.deliver_subject, piece, timeout=CALL_SECONDS)
        end = await _request_end(bus.client, accepted.deliver_subject)
        _raise_fault(name, decode(end, _RestoreReply).error)


async def _request_end(client: Client, subject: str) -> bytes:
    return (await client.request(subject, b"", timeout=CALL_SECONDS)).data


async def make_room(bus: JetStreamBus, saved: Mapping[str, StreamDescription]) -> list[str]:
    """Delete the empty streams of these names, and return the names of those that are not there as saved.

    Raises:
        BusError: the server cannot do that now.
        Rejected: one of them holds other messages; none has been deleted then.
    """
    missing: list[str] = []
    for name, description in saved.items():
        async with unavailable(f"stream {name}"):
            reply = await bus.client.request(f"{API}.INFO.{name}", b"", timeout=CALL_SECONDS)
        present = decode(reply.data, StreamDescription)
        if present.error is not None and present.error.code != NOT_FOUND:
            raise BusError(f"stream {name}: {present.error.description}")
        if messages := present.state.get("messages"):
            if present.messages() == description.messages():
                continue  # an earlier restore has been here
            raise Rejected(f"stream {name} on this bus has {messages} messages: restore into an empty bus")
        missing.append(name)
    await delete_streams(bus, missing)
    return missing


async def delete_streams(bus: JetStreamBus, names: Iterable[str]) -> None:
    """Delete the streams of these names, as far as they exist.

    Raises:
        BusError: the server cannot do that now.
    """
    for name in names:
        async with unavailable(f"delete stream {name}"):
            with suppress(nats.js.errors.NotFoundError):
                await bus.js.delete_stream(name)


def _raise_fault(name: str, fault: _Fault | None) -> None:
    if fault is not None:
        raise BusError(f"restore stream {name}: {fault.description}")
