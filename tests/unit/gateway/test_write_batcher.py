"""What an iteration of the loop writes goes out at its end, in order, and not without bound."""

import asyncio
from typing import cast

from services.gateway.adapters.write_batcher import MAX_QUEUED_BYTES, WriteBatcher


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closed


def wires() -> tuple[Wire, asyncio.Transport]:
    wire = Wire()
    return wire, cast("asyncio.Transport", wire)


async def end_of_iteration() -> None:
    await asyncio.sleep(0)


async def test_writes_are_made_in_order_at_the_end_of_the_iteration() -> None:
    batcher = WriteBatcher()
    (one, first), (other, second) = wires(), wires()
    batcher.write(first, b"a")
    batcher.write(second, b"x")
    batcher.write(first, b"b")
    assert (one.written, other.written) == ([], [])
    await end_of_iteration()
    assert (one.written, other.written) == ([b"a", b"b"], [b"x"])
    batcher.write(first, b"c")
    await end_of_iteration()
    assert one.written == [b"a", b"b", b"c"]


async def test_flush_writes_everything_at_once() -> None:
    batcher = WriteBatcher()
    wire, transport = wires()
    batcher.write(transport, b"a")
    batcher.flush()
    assert wire.written == [b"a"]
    await end_of_iteration()
    assert wire.written == [b"a"]


async def test_a_long_queue_is_written_at_once() -> None:
    batcher = WriteBatcher()
    wire, transport = wires()
    batcher.write(transport, b"a" * MAX_QUEUED_BYTES)
    assert wire.written == []
    batcher.write(transport, b"b")
    assert [len(data) for data in wire.written] == [MAX_QUEUED_BYTES, 1]


async def test_a_closed_transport_gets_no_writes() -> None:
    batcher = WriteBatcher()
    (gone, first), (there, second) = wires(), wires()
    batcher.write(first, b"a")
    batcher.write(second, b"b")
    gone.closed = True
    await end_of_iteration()
    assert (gone.written, there.written) == ([], [b"b"])


async def test_before_flush_is_called_once_before_the_first_write() -> None:
    wire, transport = wires()
    batcher = WriteBatcher(before_flush=lambda: wire.written.append(b"before"))
    batcher.write(transport, b"a")
    batcher.write(transport, b"b")
    await end_of_iteration()
    assert wire.written == [b"before", b"a", b"b"]
