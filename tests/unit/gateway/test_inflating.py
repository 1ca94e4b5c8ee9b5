"""A compressed response in steps."""

import asyncio
import zlib
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.content_coding import Inflater
from services.gateway.http.inflating import STEP_BYTES, Inflating
from tests.kit.waiting import PATIENCE_SECONDS


@given(text=st.binary(min_size=1, max_size=50), times=st.integers(1, 300), most=st.integers(1, 700))
def test_steps_of_any_size_give_the_same(text: bytes, times: int, most: int) -> None:
    packed = zlib.compress(text * times) + b"what follows is nobody's"
    inflater = Inflater(b"deflate")
    steps = [inflater.feed(packed, most)]
    while inflater.behind:
        steps.append(inflater.feed(b"", most))
    assert max(map(len, steps)) <= most
    assert (b"".join(steps), inflater.complete, inflater.feed(b"more", most)) == (text * times, True, b"")


class Parties:
    """The answer, its owner and the call to its engine."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self.unusable: list[str] = []
        self.paused = False

    def feed(self, data: bytes) -> None:
        self.given.append(len(data))

    def on_unusable(self, reason: str) -> None:
        self.unusable.append(reason)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


def inflating(parties: Parties) -> Inflating:
    answer, owner, call = (cast("Any", parties),) * 3
    return Inflating(Inflater(b"deflate"), answer, owner, call)


async def test_an_engine_waits_while_what_it_sent_is_given_on_or_the_client_is_slow() -> None:
    parties, ended = Parties(), asyncio.Event()
    flow = inflating(parties)
    flow.feed(zlib.compress(bytes(3 * STEP_BYTES)))
    assert (parties.given, parties.paused) == ([STEP_BYTES], True)
    flow.pause()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert parties.given == [STEP_BYTES]
    flow.resume()
    assert flow.postpone(ended.set)
    await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)
    assert (parties.given, parties.paused, flow.complete) == ([STEP_BYTES] * 3, False, True)


async def test_what_cannot_be_inflated_is_reported_once() -> None:
    parties = Parties()
    flow = inflating(parties)
    flow.feed(zlib.compress(bytes(2 * STEP_BYTES))[:-4] + b"a wrong checksum")
    for _ in range(5):
        await asyncio.sleep(0)
    assert parties.unusable == ["its content coding is broken"]
