"""SIGTERM: the gateway is unready first, then stops listening, and gives all requests the same grace."""

import asyncio
import os
import signal
from urllib.parse import urlsplit

import openai
import pytest

from shared.runtime import workers
from shared.runtime.workers import Workers
from tests.integration.gateway.hostile import BODY, STREAM, Opened, send_request, whole
from tests.integration.gateway.test_gateway import ASK, text_of
from tests.integration.gateway.test_workers import TWO, pids, streams_of_both
from tests.kit.raw_http import connected, head
from tests.kit.scripted_engine import Script, ScriptedEngine
from tests.kit.waiting import until


async def can_connect(url: str) -> bool:
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except ConnectionError:
        return False
    writer.close()
    return True


async def test_sigterm_lets_streams_finish_and_held_requests_be_served(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened('drain_delay = "200ms"')
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=3, hold_after=2)
    stream = await front.sdk.chat.completions.create(**ASK, stream=True)
    reading = asyncio.create_task(text_of(stream))
    await scripted_engine.received(1)
    await front.machine("m1", "draining", scripted_engine.base_url)
    await front.seen()
    held = asyncio.create_task(front.sdk.chat.completions.create(**ASK))
    await front.wake_request(lambda request: request.waiting == 1)
    stopping = asyncio.create_task(front.service.stop())
    await until(lambda: can_connect(front.url), lambda listening: not listening)
    assert (await front.wake_request(lambda _request: True)).waiting == 1, "its wake is still wanted"
    scripted_engine.release()
    assert await reading == " w1 w2 w3"
    assert not held.done()
    await front.machine("m1", "ready", scripted_engine.base_url)
    assert (await held).choices[0].message.content == " w1 w2 w3"
    assert await stopping == 0
    assert [event.outcome for event in await front.usage(2)] == ["completed"] * 2


async def test_a_held_request_is_sent_elsewhere_when_the_grace_ends(opened: Opened) -> None:
    front = await opened(grace="100ms")
    await front.machine("m1", "waking")
    await front.seen()
    held = asyncio.create_task(front.sdk.chat.completions.create(**ASK))
    await front.wake_request(lambda request: request.waiting == 1)
    assert await front.service.stop() == 0
    with pytest.raises(openai.InternalServerError) as caught:
        await held
    assert (caught.value.status_code, caught.value.code) == (503, "waking")


async def test_a_gateway_serves_new_connections_until_the_drain_delay_is_over(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened('drain_delay = "1h"')
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen()
    assert front.service.process is not None
    async with connected(front.url) as before:
        await before.send(head("GET", "/health"))
        health = await before.answer()
        assert health is not None
        assert (health.status, health.headers.get("connection")) == (200, None)
        front.service.process.send_signal(signal.SIGTERM)
        await until(front.ready, lambda answer: "draining" in answer[1])
        await before.send(head("GET", "/health"))
        health = await before.answer()
        assert health is not None
        assert (health.status, health.headers["connection"]) == (503, "close"), "it goes elsewhere for its next request"
    for body in (BODY, STREAM):
        answer = await send_request(front, whole(front, body))
        assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_a_stream_that_outlasts_the_grace_ends_with_one_error_and_its_tokens_count(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened(grace="1s")
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=9, hold_after=4)
    stream = await front.sdk.chat.completions.create(**ASK, stream=True)
    reading = asyncio.create_task(text_of(stream))
    seen = await scripted_engine.received(1)
    await until(lambda: asyncio.sleep(0, seen.completion_tokens), lambda tokens: tokens == 3)
    assert await front.service.stop() == 0
    with pytest.raises(openai.APIError, match="shutting down"):
        await reading
    (event,) = await front.usage(1)
    assert (event.outcome, event.completion_tokens) == ("engine_lost", 3)


async def test_the_exit_status_reports_a_killed_worker(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened(TWO, room=64)
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=3, hold_after=2)
    async with streams_of_both(front):
        stopping = asyncio.create_task(front.service.stop())
        await until(front.ready, lambda answer: {"worker 0: draining", "worker 1: draining"} <= {*answer[1]})
        os.kill(pids(front)[0], signal.SIGKILL)
        scripted_engine.release()
        assert await stopping == 1
    assert "worker_not_drained" in front.service.log.read_text()


async def test_workers_that_outlast_their_drain_are_killed_and_reported(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "KILL_AFTER_SECONDS", 0.1)
    front = await opened()
    options = ["--config", str(front.folder / "spotinference.toml"), "--data-dir", str(front.folder / "two")]
    parent = Workers("gateway", ("127.0.0.1", 0), ("127.0.0.1", 0), 1, options, drain_s=0.1)
    running = asyncio.create_task(parent.run())
    (child,) = await until(
        lambda: asyncio.sleep(0, parent.children), lambda children: bool(children and children[0].running)
    )
    assert child.running is not None
    os.kill(child.running.pid, signal.SIGSTOP)
    parent.stop()
    assert await running == 1


@pytest.mark.long
async def test_workers_have_their_whole_grace(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened(TWO, room=64, grace="5m")
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=3, hold_after=2)
    async with streams_of_both(front) as streams:
        stopping = asyncio.create_task(front.service.stop())
        await asyncio.sleep(35)  # longer than any fixed limit was
        scripted_engine.release()
        rests = await asyncio.gather(*(stream.until_end() for stream in streams))
        assert all(b"data: [DONE]" in rest for rest in rests)
        assert await stopping == 0
