"""Requests that wait for a machine: told as a level, bounded, kept informed, fairly served, cheap, and forgotten."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from shared.bus.ports import Received
from shared.bus.subjects import WAKE_REQUESTS
from shared.messages.codec import decode
from shared.messages.gateway import WakeRequest
from tests.integration.gateway.conftest import MODEL, Front
from tests.integration.gateway.hostile import BODY, PATH, STREAM, own_error, send_request
from tests.kit.raw_engine import DONE, EVENT, STREAM_HEAD, EngineSide, raw_engine
from tests.kit.raw_engine import whole as whole_answer
from tests.kit.raw_http import Answer, RawConnection, connected, head
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.waiting import until

Opened = Callable[..., Awaitable[Front]]
MOST_HELD_BYTES = 40 * 1024
"""Of memory for each held request, its connection included: several times what one takes."""


def request(key: str, body: bytes = BODY, *headers: str) -> bytes:
    lines = (f"Authorization: Bearer {key}", f"Content-Length: {len(body)}", *headers)
    return head("POST", PATH, *lines) + body


@asynccontextmanager
async def holding(front: Front, *requests: bytes) -> AsyncIterator[list[RawConnection]]:
    """Each over its own connection, in this order, and all of them held."""
    before = await front.metric("waiting")
    async with AsyncExitStack() as stack:
        connections = []
        for sent in requests:
            connection = await stack.enter_async_context(connected(front.url))
            await connection.send(sent)
            connections.append(connection)
        await until(lambda: front.metric("waiting"), lambda waiting: waiting == before + len(requests))
        yield connections


async def answer_to(connection: RawConnection) -> Answer:
    answer = await connection.answer()
    assert answer is not None
    return answer


async def test_many_waiting_requests_are_one_bounded_wake_request(opened: Opened) -> None:
    front = await opened('wake_repeat = "1s"\nmax_waiting = 201\nmax_waiting_per_key = 150')
    reported: list[WakeRequest] = []

    async def on_request(received: Received) -> None:
        reported.append(decode(received.data, WakeRequest))

    await front.bus.subscribe(WAKE_REQUESTS, on_request)
    _, second = await front.mint()
    await front.knows(second)
    async with holding(front, request(front.key)) as (longest,):
        async with holding(front, *[request(front.key)] * 149, *[request(second)] * 50):
            of_key = await send_request(front, request(front.key))
            async with holding(front, request(second)):
                in_all = await send_request(front, request(second))
                await until(lambda: asyncio.sleep(0, reported), lambda seen: [t.waiting for t in seen].count(201) >= 3)
        for refused in (of_key, in_all):
            assert own_error(refused) == "429 too_many_waiting"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert await front.metric("limit_hits_total", limit="waiting_per_key") == 1
        assert await front.metric("limit_hits_total", limit="waiting") == 1
        await until(lambda: front.metric("waiting"), lambda waiting: waiting == 1)
        left = await until(lambda: asyncio.sleep(0, reported[-1]), lambda last: last.waiting == 1)
        assert len(left.request_ids) == 1
        assert {t.waiting for t in reported} <= {*range(1, 202)}
        longest.close()
        withdrawn = await until(lambda: asyncio.sleep(0, reported[-1]), lambda last: last.waiting == 0)
    assert withdrawn.sent_at - reported[-2].sent_at < 0.96, "the last one's leaving is told at once"
    pauses = [later.sent_at - earlier.sent_at for earlier, later in pairwise(reported[:-1])]
    assert min(pauses) > 0.96, "who comes and who goes is told by the next repeat"
    assert {t.model for t in reported} == {MODEL}
    assert len(reported[0].request_ids) == 1
    assert max(len(t.request_ids) for t in reported) == 16


class Narrow:
    """An engine that counts what it works on at the same time."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.most = self._now = 0

    async def play(self, side: EngineSide, sent: bytes) -> None:
        body = json.loads(sent.partition(b"\r\n\r\n")[2])
        self.users.append(body["user"])
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0.002)
        if body.get("stream"):
            await side.send(STREAM_HEAD, b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            await asyncio.sleep(0)
            self._now -= 1
            await side.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE))
        else:
            self._now -= 1
            await side.send(whole_answer())


async def test_waiting_requests_are_served_in_turn_within_the_concurrency(opened: Opened) -> None:
    front = await opened(room=2)
    _, second = await front.mint()
    await front.knows(second)
    narrow = Narrow()
    first_body, second_body = (b'%b,"user":"%b"}' % (BODY[:-1], user) for user in (b"first", b"second"))
    streamed = first_body[:-1] + b',"stream":true}'
    theirs = [request(front.key, streamed), request(front.key, first_body)] * 150

    async def play(side: EngineSide) -> None:
        await narrow.play(side, engine.requests[-1])

    async with raw_engine(play) as engine, holding(front, *theirs, request(second, second_body)) as connections:
        await front.machine("m1", "ready", engine.base_url)
        results = await asyncio.gather(*map(answer_to, connections))
        assert {answer.status for answer in results} == {200}
        assert [answer.body.endswith(DONE) for answer in results] == [True, False] * 150 + [False]
        assert narrow.most == 2
        assert "second" in narrow.users[:3], "one who waits for little does not wait for all of another's"
        assert len(narrow.users) == 301
        assert await front.metric("waiting") == await front.metric("in_flight") == 0


async def test_a_waiting_stream_gets_the_wake_s_phase_and_eta(opened: Opened) -> None:
    front = await opened()
    await front.machine("m2", "waking", phase="loading", ready_at=time.time() + 142)
    await front.seen()
    async with connected(front.url) as connection:
        await connection.send(request(front.key, STREAM))
        reported = (await connection.until(b"eta=")) + await connection.until(b"\n")
        assert re.search(rb": waking tier=second phase=loading eta=14[012]\n$", reported)
    refused = await send_request(front, request(front.key, BODY, "X-Wake-Timeout: 0"))
    assert own_error(refused) == "503 waking"
    assert refused.headers["retry-after"] == "60"
    await front.machine("m2", "waking", phase="first_token", ready_at=time.time() + 7)
    await front.seen()
    refused = await send_request(front, request(front.key, BODY, "X-Wake-Timeout: 0"))
    assert int(refused.headers["retry-after"]) in {6, 7}


BAD = ("soon", "-1", "nan", "inf", "", "1s", "0x10")


async def test_x_wake_timeout_bounds_the_wait(opened: Opened) -> None:
    front = await opened('hold_cap = "3s"')
    await front.machine("m2", "asleep")
    sent = {
        (limit, kind): request(front.key, body, f"X-Wake-Timeout: {limit}")
        for limit in ("0", "0.0", "0.05", "2", "3", "99", "1e3", *BAD)
        for kind, body in (("whole", BODY), ("stream", STREAM))
    }
    results = dict(zip(sent, await asyncio.gather(*(send_request(front, one) for one in sent.values())), strict=True))
    for limit in BAD:
        for kind in ("whole", "stream"):
            assert own_error(results[limit, kind]) == "400 invalid_request", limit
            assert results[limit, kind].error["param"] == "X-Wake-Timeout"
    for limit in ("0", "0.0", "0.05", "2"):
        assert own_error(results[limit, "whole"]) == "503 waking"
        assert 1 <= int(results[limit, "whole"].headers["retry-after"]) <= 60
    for limit in ("0", "0.0", "0.05"):
        assert own_error(results[limit, "stream"]) == "503 waking", "a quick answer has a true status, also to a stream"
    for limit in ("3", "99", "1e3"):
        assert own_error(results[limit, "whole"]) == "504 wake_timeout", "no more than the cap"
    for limit, code in (("2", "waking"), ("3", "wake_timeout"), ("99", "wake_timeout"), ("1e3", "wake_timeout")):
        late = results[limit, "stream"]
        assert late.status == 200
        *comments, error, end = late.body.split(b"\n\n")
        assert end == b""
        assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == code
        assert comments
        assert all(comment.startswith(b": waking tier=first ") for comment in comments)


async def test_a_request_during_a_drain_is_served_by_the_next_machine_that_wakes(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened()
    await front.machine("m1", "draining", scripted_engine.base_url)
    await front.machine("m2", "asleep")
    await front.seen()
    assert [model.id async for model in front.sdk.models.list()] == [MODEL], "what sleeps is offered all the same"
    assert (await front.sdk.models.retrieve(MODEL)).id == MODEL
    async with holding(front, request(front.key)) as (connection,):
        expected = await front.wake_request(lambda request: request.waiting == 1)
        await front.machine("m1", "falling_asleep")
        await front.machine("m2", "waking", phase="loading")
        await front.machine("m2", "ready", scripted_engine.base_url)
        answer = await answer_to(connection)
    assert answer.status == 200
    (event,) = await front.usage(1)
    assert (event.machine, event.wake_id, event.id) == ("m2", "wake-1", expected.request_ids[0])
    assert event.wake_wait > 0


def rss(front: Front) -> int:
    """Of the gateway's process, in bytes."""
    status = Path(f"/proc/{front.service.announced.pid}/status").read_text("ascii")
    results = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert results is not None
    return int(results[1]) * 1024


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streams"])
async def test_a_held_request_takes_little_memory(opened: Opened, scripted_engine: ScriptedEngine, body: bytes) -> None:
    front = await opened(room=64)
    async with holding(front, *[request(front.key, body)] * 20):
        pass
    await until(lambda: front.metric("waiting"), lambda waiting: waiting == 0)
    before = rss(front)
    async with holding(front, *[request(front.key, body)] * 1000) as connections:
        assert (rss(front) - before) / 1000 < MOST_HELD_BYTES
        await front.machine("m1", "ready", scripted_engine.base_url)
        assert {(await answer_to(connection)).status for connection in connections} == {200}
    assert len(await front.usage(1000)) == 1000
