"""What a turn of the loop has to say goes out at its end, in order, and not without bound."""

import asyncio
from typing import cast

from services.gateway.turn import MOST_BYTES, Turn


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


async def end_of_turn() -> None:
    await asyncio.sleep(0)


async def test_it_goes_out_at_the_end_of_the_turn_in_order() -> None:
    turn = Turn()
    (one, first), (other, second) = wires(), wires()
    turn.write(first, b"a")
    turn.write(second, b"x")
    turn.write(first, b"b")
    assert (one.written, other.written) == ([], [])
    await end_of_turn()
    assert (one.written, other.written) == ([b"a", b"b"], [b"x"])
    turn.write(first, b"c")
    await end_of_turn()
    assert one.written == [b"a", b"b", b"c"]


async def test_a_flush_takes_all_and_leaves_nothing_for_the_end() -> None:
    turn = Turn()
    wire, transport = wires()
    turn.write(transport, b"a")
    turn.flush()
    assert wire.written == [b"a"]
    await end_of_turn()
    assert wire.written == [b"a"]


async def test_much_goes_out_at_once() -> None:
    turn = Turn()
    wire, transport = wires()
    turn.write(transport, b"a" * MOST_BYTES)
    assert wire.written == []
    turn.write(transport, b"b")
    assert [len(data) for data in wire.written] == [MOST_BYTES, 1]


async def test_a_closed_transport_is_told_nothing() -> None:
    turn = Turn()
    (gone, first), (there, second) = wires(), wires()
    turn.write(first, b"a")
    turn.write(second, b"b")
    gone.closed = True
    await end_of_turn()
    assert (gone.written, there.written) == ([], [b"b"])
