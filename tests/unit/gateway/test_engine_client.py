"""Calls to engines: what ends them, which connection they use, and what of a read goes on together."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.adapters.engine_client import KEEPALIVE_SECONDS, EngineClient
from services.gateway.adapters.engine_connection import EngineConnection
from services.gateway.adapters.write_batcher import WriteBatcher
from shared.config.sections import GatewaySection
from shared.config.values import Duration

ORIGIN = "http://127.0.0.1:1"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK, LAST_CHUNK = b"2\r\nab\r\n", b"0\r\n\r\n"
CONNECT_TIMEOUT, FIRST_BYTE_TIMEOUT, READ_TIMEOUT = 5.0, 12.0, 9.0
SETTINGS = GatewaySection(
    connect_timeout=Duration(CONNECT_TIMEOUT),
    first_byte_timeout=Duration(FIRST_BYTE_TIMEOUT),
    read_timeout=Duration(READ_TIMEOUT),
)
STALL_SECONDS = 40.0


class Wire:
    """A transport."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = self.paused = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.closed = True


class Asker:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.pieces: list[bytes] = []
        self.ended = False
        self.lost = ""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> Callable[[bytes], None]:
        assert headers[b"content-type"] == b"text/event-stream"
        self.status = status
        return self.pieces.append

    def on_end(self) -> None:
        self.ended = True

    def on_lost(self, reason: str, *, unreachable: bool) -> None:
        self.lost = f"{reason}, unreachable" if unreachable else reason


class Engines(EngineClient):
    """Whose connections are made in no time, and kept here."""

    def __init__(self) -> None:
        super().__init__(SETTINGS, WriteBatcher())
        self.made: list[tuple[EngineConnection, Wire]] = []
        self.reachable = True

    async def connect(self, origin: str) -> EngineConnection:
        assert origin == ORIGIN
        if not self.reachable:
            await asyncio.Event().wait()
        connection, wire = EngineConnection(self.batcher), Wire()
        connection.connection_made(cast("asyncio.Transport", wire))
        self.made.append((connection, wire))
        return connection


async def turns() -> None:
    """For a connection to be made and the batcher to write."""
    for _ in range(3):
        await asyncio.sleep(0)


async def start_call(engines: Engines) -> tuple[Asker, Any, EngineConnection, Wire]:
    asker = Asker()
    call = engines.call(ORIGIN, [b"request"], asker)
    await turns()
    return asker, call, *engines.made[-1]


async def test_the_chunks_of_a_read_go_on_together_and_the_connection_is_used_again() -> None:
    engines = Engines()
    asker, _, connection, wire = await start_call(engines)
    connection.data_received(HEAD + CHUNK + CHUNK)
    connection.data_received(CHUNK)
    connection.data_received(CHUNK + LAST_CHUNK)
    assert (asker.status, asker.pieces, asker.ended) == (200, [b"abab", b"ab", b"ab"], True)
    again, *_ = await start_call(engines)
    connection.data_received(HEAD + LAST_CHUNK)
    assert (again.ended, len(engines.made), wire.written) == (True, 1, [b"request", b"request"])


@pytest.mark.parametrize("surplus", [b"x", HEAD, HEAD + CHUNK + LAST_CHUNK])
async def test_what_follows_an_answer_is_dropped_with_its_connection(surplus: bytes) -> None:
    engines = Engines()
    asker, _, connection, wire = await start_call(engines)
    connection.data_received(HEAD + CHUNK + LAST_CHUNK + surplus)
    assert (asker.pieces, asker.ended, asker.lost, wire.closed) == ([b"ab"], True, "", True)
    await start_call(engines)
    assert len(engines.made) == 2


async def test_a_kept_connection_that_has_closed_is_replaced_once() -> None:
    engines = Engines()
    _, _, connection, _ = await start_call(engines)
    connection.data_received(HEAD + LAST_CHUNK)
    asker, *_ = await start_call(engines)
    connection.connection_lost(None)
    await turns()
    assert (len(engines.made), asker.lost) == (2, "")
    engines.made[-1][0].connection_lost(None)
    assert asker.lost == "the engine closed the connection"


async def test_a_connection_is_kept_for_a_few_seconds_of_the_client_s_clock() -> None:
    engines = Engines()
    _, _, connection, wire = await start_call(engines)
    connection.data_received(HEAD + LAST_CHUNK)
    engines.tick(KEEPALIVE_SECONDS - 1)
    assert not wire.closed
    engines.tick(KEEPALIVE_SECONDS)
    assert wire.closed


async def test_a_stall_of_this_process_ends_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = Engines()
    waiting, *_ = await start_call(engines)
    reading, _, connection, _ = await start_call(engines)
    connection.data_received(HEAD + CHUNK)
    engines.reachable = False
    connecting = Asker()
    engines.call(ORIGIN, [b"request"], connecting)
    engines.tick(0.25)
    for clock in ("time", "monotonic", "perf_counter"):
        now = getattr(time, clock)()
        monkeypatch.setattr(time, clock, lambda now=now: now + STALL_SECONDS)
    engines.tick(1.25)  # as much as the clock goes on for one tick, however long it took
    await turns()
    assert not waiting.lost + reading.lost + connecting.lost
    lost_at: dict[str, float] = {}
    while len(lost_at) < 3:
        engines.tick(engines.now + 0.25)
        for name, asker in (("connecting", connecting), ("waiting", waiting), ("reading", reading)):
            if asker.lost:
                lost_at.setdefault(name, engines.now)
    # What had come before the first tick is seen by it.
    assert lost_at == {"connecting": CONNECT_TIMEOUT, "waiting": FIRST_BYTE_TIMEOUT, "reading": READ_TIMEOUT + 0.25}
    assert connecting.lost == "the connection timed out, unreachable"


STEPS = st.sampled_from(["read", "pause", "resume", 0.25, 4.0, 5.0])


@given(st.lists(STEPS, max_size=30))
def test_a_call_ends_when_nothing_came_for_its_time_while_it_could_be_taken(steps: list[str | float]) -> None:
    async def play() -> None:
        engines = Engines()
        asker, call, connection, _ = await start_call(engines)
        since, has_come, paused, unseen = 0.0, False, False, False
        for step in steps:
            if step == "read":
                connection.data_received(CHUNK if has_come else HEAD + CHUNK)
                has_come = unseen = True
            elif step == "pause":
                call.pause()
                paused = True
            elif step == "resume":
                call.resume()
                since, paused, unseen = engines.now, False, False
            else:
                engines.tick(engines.now + float(step))
                since, unseen = (engines.now, False) if unseen or paused else (since, False)
                limit = READ_TIMEOUT if has_come else FIRST_BYTE_TIMEOUT
                assert bool(asker.lost) == (engines.now >= since + limit)
            if asker.lost:
                assert asker.lost == "the engine sent nothing for too long"
                break
        engines.close()

    asyncio.run(play())
