"""A compressed response is given on in steps, at the pace of its client, and its end comes behind them."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.adapters.http.client_response import MAX_JOINED_BYTES
from services.gateway.adapters.http.paced_inflater import STEP_BYTES
from services.gateway.core.content_coding import MAX_INFLATED, Inflater, Undecodable
from tests.kit.raw_engine import DONE, EVENT
from tests.unit.gateway.front import Call, Front
from tests.unit.gateway.test_relay import JSON, WHOLE, ended, start_call
from tests.unit.gateway.wire import Wire, turns

CONTENT = EVENT * (5 * STEP_BYTES // len(EVENT)) + DONE
PACKED = gzip.compress(CONTENT)
READS = [PACKED[at : at + 1000] for at in range(0, len(PACKED), 1000)]
MORE_THAN_A_STEP = STEP_BYTES + 2 * len(EVENT) + MAX_JOINED_BYTES
MANY_TURNS = 40


def body(wire: Wire) -> bytes:
    return wire.responses[0].body


async def compressed(front: Front, *reads: bytes) -> tuple[Wire, Call]:
    wire, call = await start_call(front)
    call.answer(content_encoding=b"gzip")
    for read in reads:
        call.feed(read)
    return wire, call


async def ended_in_steps(front: Front, wire: Wire) -> None:
    for _ in range(MANY_TURNS):
        before = len(wire.written)
        await turns(1)
        assert len(wire.written) - before <= MORE_THAN_A_STEP
        if not front.lifecycle.exchanges:
            break
    await ended(front, wire)


@pytest.mark.parametrize("ends_well", [True, False])
async def test_one_turn_of_the_loop_gives_on_one_step(front: Front, *, ends_well: bool) -> None:
    wire, call = await compressed(front, *READS)
    assert call.paused
    if ends_well:
        call.receiver.on_end()
    else:
        call.receiver.on_lost("died after its last word", unreachable=False)
    assert not front.books.events
    await ended_in_steps(front, wire)
    assert body(wire) == CONTENT
    assert [event.outcome for event in front.books.events] == ["completed"]
    assert not call.paused
    front.check()


async def test_a_client_that_is_slow_is_waited_for(front: Front) -> None:
    wire, call = await compressed(front)
    wire.protocol.pause_writing()
    for read in READS:
        call.feed(read)
    call.receiver.on_end()
    await turns(MANY_TURNS)
    assert wire.written.endswith(b"\r\n\r\n"), "no more than a head"
    wire.protocol.resume_writing()
    assert call.paused, "what is there goes first"
    await ended_in_steps(front, wire)
    assert (body(wire), call.paused) == (CONTENT, False)
    front.check()


async def test_a_dropped_response_is_not_passed_on(front: Front) -> None:
    wire, call = await compressed(front, *READS)
    wire.abort()
    sent = bytes(wire.written)
    await turns(MANY_TURNS)
    assert (bytes(wire.written), call.aborted) == (sent, True)
    assert [event.outcome for event in front.books.events] == ["client_closed"]
    front.check()


async def test_nothing_follows_the_error_event(front: Front) -> None:
    wire, call = await compressed(front, *READS)
    await front.lifecycle.drain(0.0)
    await turns(MANY_TURNS)
    (response,) = wire.responses
    assert (b'"code":"waking"' in response.body[-300:], call.aborted) == (True, True)
    assert len(response.body) < len(CONTENT)
    assert [event.outcome for event in front.books.events] == ["engine_lost"]
    front.check()


async def test_a_stream_that_is_cut_behind_a_step_is_lost(front: Front) -> None:
    wire, call = await compressed(front, PACKED[: len(PACKED) // 2])
    call.receiver.on_end()
    assert front.lifecycle.exchanges
    await ended_in_steps(front, wire)
    assert b"engine_lost" in body(wire)[-200:]
    assert [event.outcome for event in front.books.events] == ["engine_lost"]
    front.check()


async def test_what_cannot_be_inflated_behind_a_step_is_reported_once(front: Front) -> None:
    wire, call = await compressed(front, zlib.compress(CONTENT)[:-4] + b"a wrong checksum")
    await ended_in_steps(front, wire)
    assert (b"engine_lost" in body(wire)[-200:], call.aborted) == (True, True)
    assert front.scheduler.breaker._records["s1"].everyone.failures == 1
    front.check()


async def test_a_buffered_response_is_inflated(front: Front) -> None:
    wire, call = await start_call(front, b'{"model":"m"}')
    call.answer(content_type=JSON, content_encoding=b"gzip")
    call.feed(gzip.compress(WHOLE))
    call.receiver.on_end()
    await ended(front, wire)
    assert (body(wire), front.books.events[0].completion_tokens) == (WHOLE, 2)
    front.check()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [(b"br", b"x"), (b"gzip", b"no gzip at all"), (b"gzip", gzip.compress(b"0" * (MAX_INFLATED + 1)))],
)
async def test_what_cannot_be_inflated_or_to_too_much_is_the_engine_s_fault(
    front: Front, coding: bytes, packed: bytes
) -> None:
    del front.fleet["s2"]
    wire, call = await start_call(front, b'{"model":"m"}')
    call.answer(content_type=JSON, content_encoding=coding)
    call.feed(packed)
    await ended(front, wire)
    assert ([r.status for r in wire.responses], call.aborted) == ([502], True)
    assert front.scheduler.breaker.has_failures
    front.check()


@given(st.lists(st.binary(max_size=50), max_size=5), st.sampled_from([b"gzip", b"deflate"]))
def test_any_bytes_are_inflated_or_refused(reads: list[bytes], coding: bytes) -> None:
    inflater = Inflater(coding)
    try:
        assert sum(len(inflater.feed(data, MAX_INFLATED)) for data in reads) <= len(reads) * MAX_INFLATED
    except Undecodable:
        return


@pytest.mark.parametrize("bits", [zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS])
@given(text=st.binary(min_size=1, max_size=200), size=st.integers(1, 4))
def test_compressed_text_may_come_a_few_bytes_at_a_time(bits: int, text: bytes, size: int) -> None:
    packer = zlib.compressobj(wbits=bits)
    packed = packer.compress(text) + packer.flush()
    inflater = Inflater(b"gzip" if bits > zlib.MAX_WBITS else b"deflate")
    inflated = b""
    for at in range(0, len(packed), size):
        assert not inflater.complete or at == 0
        inflated += inflater.feed(packed[at : at + size], MAX_INFLATED)
    assert (inflated, inflater.complete) == (text, True)


@given(text=st.binary(min_size=1, max_size=50), times=st.integers(1, 300), most=st.integers(1, 700))
def test_steps_of_any_size_give_the_same(text: bytes, times: int, most: int) -> None:
    packed = zlib.compress(text * times) + b"what follows is nobody's"
    inflater = Inflater(b"deflate")
    steps = [inflater.feed(packed, most)]
    while inflater.has_more:
        steps.append(inflater.feed(b"", most))
    assert max(map(len, steps)) <= most
    assert (b"".join(steps), inflater.complete, inflater.feed(b"more", most)) == (text * times, True, b"")
