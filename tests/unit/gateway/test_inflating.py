"""A compressed stream is given on in steps, at the pace of its client, and its end comes behind them."""

import asyncio
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.content_coding import Inflater
from services.gateway.http.inflating import STEP_BYTES
from tests.kit.raw_engine import DONE, EVENT
from tests.unit.gateway.test_relay import STREAM, Stage

HEAD = {**STREAM, b"content-encoding": b"gzip"}
SAID = EVENT * (5 * STEP_BYTES // len(EVENT)) + DONE
PIECES = [gzip.compress(SAID)[at : at + 1000] for at in range(0, len(gzip.compress(SAID)), 1000)]
MORE_THAN_A_STEP = STEP_BYTES + 2 * len(EVENT)
MANY_TURNS = 100


async def turns_until_finished(stage: Stage) -> None:
    for _ in range(MANY_TURNS):
        before = sum(map(len, stage.sent))
        await asyncio.sleep(0)
        assert sum(map(len, stage.sent)) - before <= MORE_THAN_A_STEP
        if stage.finished or stage.failed:
            return


@pytest.mark.parametrize("ends_well", [True, False])
async def test_one_turn_of_the_loop_gives_on_one_step(*, ends_well: bool) -> None:
    stage = Stage()
    feed = stage.relay.on_head(200, HEAD)
    for piece in PIECES:
        feed(piece)
    assert sum(map(len, stage.sent)) <= MORE_THAN_A_STEP
    assert stage.call.paused
    if ends_well:
        stage.relay.on_end()
    else:
        stage.relay.on_lost("died after its last word", unreachable=False)
    assert not stage.finished
    await turns_until_finished(stage)
    assert (b"".join(stage.sent), stage.finished, stage.failed) == (SAID, True, [])
    assert (stage.call.paused, stage.tally.outcome) == (False, "completed")


async def test_a_client_that_is_slow_is_waited_for() -> None:
    stage = Stage()
    feed = stage.relay.on_head(200, HEAD)
    stage.relay.pause()
    for piece in PIECES:
        feed(piece)
    stage.relay.on_end()
    for _ in range(MANY_TURNS):
        await asyncio.sleep(0)
    assert (stage.sent, stage.finished) == ([], False)
    stage.relay.resume()
    assert stage.call.paused, "what is there goes first"
    await turns_until_finished(stage)
    assert (b"".join(stage.sent), stage.finished, stage.call.paused) == (SAID, True, False)


async def test_an_answer_that_is_dropped_is_not_given_on() -> None:
    stage = Stage()
    stage.relay.on_head(200, HEAD)(PIECES[0])
    sent = list(stage.sent)
    stage.relay.drop_answer(is_read=False)
    for _ in range(MANY_TURNS):
        await asyncio.sleep(0)
    assert stage.sent == sent


async def test_a_stream_that_is_cut_behind_a_step_is_lost() -> None:
    stage = Stage()
    packed = b"".join(PIECES)
    stage.relay.on_head(200, HEAD)(packed[: len(packed) // 2])
    stage.relay.on_end()
    assert not stage.failed
    await turns_until_finished(stage)
    assert (stage.failed, stage.finished) == (["engine_lost"], False)


@given(text=st.binary(min_size=1, max_size=50), times=st.integers(1, 300), most=st.integers(1, 700))
def test_steps_of_any_size_give_the_same(text: bytes, times: int, most: int) -> None:
    packed = zlib.compress(text * times) + b"what follows is nobody's"
    inflater = Inflater(b"deflate")
    steps = [inflater.feed(packed, most)]
    while inflater.behind:
        steps.append(inflater.feed(b"", most))
    assert max(map(len, steps)) <= most
    assert (b"".join(steps), inflater.complete, inflater.feed(b"more", most)) == (text * times, True, b"")
