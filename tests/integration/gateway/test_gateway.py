"""The gateway as its clients see it: the official SDK, a real process, a real bus, engines that fail on order."""

import asyncio
import resource
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import openai
import pytest

from shared.bus.ports import Received
from shared.bus.subjects import ACTIVITIES
from shared.messages.codec import decode
from shared.messages.gateway import Activity
from tests.integration.gateway.conftest import MODEL, Front
from tests.kit.nats_server import NatsServer
from tests.kit.scripted_engine import Script, ScriptedEngine, scripted
from tests.kit.waiting import PATIENCE_SECONDS, until

Opened = Callable[..., Awaitable[Front]]
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def text_of(stream: openai.AsyncStream[Any]) -> str:
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def test_a_stream_is_the_engine_s_own_and_its_usage_is_counted(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=4, prompt_tokens=9, cached_tokens=2)
    stream = await front.sdk.chat.completions.create(**ASK, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == " w1 w2 w3 w4"
    assert all(c.usage is None for c in chunks)
    (event,) = await front.usage(1)
    assert (event.prompt_tokens, event.cached_tokens, event.completion_tokens) == (9, 2, 4)
    assert (event.basis, event.outcome, event.status, event.streamed) == ("engine", "completed", 200, True)
    assert (event.key_id, event.model, event.machine, event.tier) == (front.key_id, MODEL, "m1", "first")
    assert (event.generation, event.source_seq) == (3, 1)
    assert scripted_engine.requests[0].headers["x-request-id"] == event.id
    assert "authorization" not in scripted_engine.requests[0].headers


async def test_a_buffered_response_passes_with_its_request_id(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    answer = await front.sdk.chat.completions.create(**ASK, seed=7, extra_body={"vendor": {"a": 1}})
    assert answer.usage is not None
    (event,) = await front.usage(1)
    assert (event.prompt_tokens, event.completion_tokens) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    assert answer._request_id == event.id
    assert scripted_engine.requests[0].body["vendor"] == {"a": 1}
    assert scripted_engine.requests[0].body["seed"] == 7


async def test_a_request_is_held_until_a_machine_is_ready(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    asking = asyncio.create_task(front.sdk.chat.completions.create(**ASK))
    expected = await front.wake_request(lambda request: request.waiting == 1)
    assert expected.key_id == front.key_id
    assert len(expected.request_ids) == 1
    assert not asking.done()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await asking
    await front.wake_request(lambda request: request.waiting == 0)
    (event,) = await front.usage(1)
    assert event.wake_wait > 0
    assert event.wake_id == "wake-1"


async def test_a_waiting_stream_gets_comments_and_then_tokens(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {front.key}"}) as session,
        session.post(f"{front.url}/v1/chat/completions", json=ASK | {"stream": True}) as answer,
    ):
        assert answer.status == 200
        lines = [await answer.content.readline() for _ in range(4)]
        assert lines == [b": waking tier=first phase=? eta=?\n", b"\n"] * 2
        await front.machine("m1", "ready", scripted_engine.base_url)
        rest = await answer.read()
    assert rest.rstrip().endswith(b"data: [DONE]")


@pytest.mark.parametrize("streamed", [False, True])
async def test_past_the_cap_the_wait_ends_with_wake_timeout(opened: Opened, *, streamed: bool) -> None:
    front = await opened('hold_cap = "600ms"')

    async def ask() -> None:
        answer = await front.sdk.chat.completions.create(**ASK, stream=streamed)
        await text_of(answer)  # type: ignore[arg-type]  # only a stream gets this far

    with pytest.raises(openai.APIError) as caught:
        await ask()
    assert caught.value.code == "wake_timeout"
    if not streamed:
        assert isinstance(caught.value, openai.InternalServerError)
        assert caught.value.status_code == 504


@pytest.mark.parametrize(
    ("limit", "status", "code"), [("0", 503, "waking"), ("0.1", 503, "waking"), ("soon", 400, "invalid_request")]
)
async def test_a_caller_may_wait_less(opened: Opened, limit: str, status: int, code: str) -> None:
    front = await opened()
    with pytest.raises(openai.APIStatusError) as caught:
        await front.sdk.chat.completions.create(**ASK, extra_headers={"X-Wake-Timeout": limit})
    assert (caught.value.status_code, caught.value.code) == (status, code)
    if status == 503:
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        await front.wake_request(lambda request: len(request.request_ids) == (limit == "0"))


async def test_a_client_that_leaves_stops_the_engine_and_is_counted(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=50, hold_after=4)
    stream = await front.sdk.chat.completions.create(**ASK, stream=True)
    for _ in range(4):
        await anext(aiter(stream))
    await stream.close()
    seen = await scripted_engine.received(1)
    assert await seen.ended() == "left"
    (event,) = await front.usage(1)
    assert (event.outcome, event.completion_tokens, event.basis) == ("client_closed", 3, "engine")


async def test_a_client_gone_before_the_first_byte_counts_zero_tokens(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(hold_after=0)
    asking = asyncio.create_task(front.sdk.chat.completions.create(**ASK))
    seen = await scripted_engine.received(1)
    asking.cancel()
    assert await seen.ended() == "left"
    (event,) = await front.usage(1)
    assert (event.outcome, event.completion_tokens, event.basis) == ("client_closed", 0, "none")


@pytest.mark.parametrize("script", [Script(reset_after=3), Script(cut_after=3)])
async def test_an_engine_that_dies_in_a_stream_ends_it_with_one_error(
    opened: Opened, scripted_engine: ScriptedEngine, script: Script
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = script
    stream = await front.sdk.chat.completions.create(**ASK, stream=True)
    with pytest.raises(openai.APIError) as caught:
        await text_of(stream)
    assert caught.value.code == "engine_lost"
    (event,) = await front.usage(1)
    assert (event.outcome, event.completion_tokens) == ("engine_lost", 2)


@pytest.mark.parametrize("script", [Script(reset_after=0), Script(status=500), Script(status=503)])
async def test_a_failure_before_the_first_byte_fails_over_once(
    opened: Opened, scripted_engine: ScriptedEngine, script: Script
) -> None:
    front = await opened()
    async with scripted() as broken:
        broken.default = script
        await front.machine("m1", "ready", broken.base_url)
        await front.machine("m2", "ready", scripted_engine.base_url)
        await front.sdk.chat.completions.create(**ASK)
    (event,) = await front.usage(1)
    assert (event.machine, event.outcome, event.status) == ("m2", "completed", 200)


async def test_an_unreachable_engine_gets_502_and_no_usage_event(opened: Opened) -> None:
    front = await opened()
    await front.machine("m1", "ready", "http://127.0.0.1:1")
    with pytest.raises(openai.InternalServerError) as caught:
        await front.sdk.chat.completions.create(**ASK)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_unreachable")


async def test_an_engine_s_refusal_passes_through(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(status=400, message="max_tokens is too large")
    with pytest.raises(openai.BadRequestError, match="max_tokens is too large"):
        await front.sdk.chat.completions.create(**ASK)
    (event,) = await front.usage(1)
    assert (event.outcome, event.status, event.completion_tokens) == ("failed", 400, 0)


async def test_a_draining_machine_gets_no_new_request_and_is_acknowledged(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened()
    arrived: asyncio.Queue[Activity] = asyncio.Queue()

    async def on_activity(received: Received) -> None:
        arrived.put_nowait(decode(received.data, Activity))

    await front.bus.subscribe(ACTIVITIES, on_activity)
    await front.machine("m1", "ready", scripted_engine.base_url)
    scripted_engine.default = Script(tokens=2, hold_after=1)
    running = asyncio.create_task(front.sdk.chat.completions.create(**ASK))
    await scripted_engine.received(1)
    draining = await front.machine("m1", "draining", scripted_engine.base_url)
    await front.seen()
    held = asyncio.create_task(front.sdk.chat.completions.create(**ASK))
    await front.wake_request(lambda request: request.waiting == 1)
    scripted_engine.release()
    await running
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (activity := await arrived.get()).machines["m1"].acknowledged != draining:
            assert activity.machines["m1"].acknowledged is None
    assert activity.written == 1, "it says how far its usage goes"
    assert len(scripted_engine.requests) == 1
    await front.machine("m1", "ready", scripted_engine.base_url)
    await held


async def test_usage_outlives_the_gateway_and_the_bus(
    opened: Opened, scripted_engine: ScriptedEngine, nats_server: NatsServer
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.sdk.chat.completions.create(**ASK)
    await front.usage(1)
    nats_server.kill9()
    for _ in range(3):
        await front.sdk.chat.completions.create(**ASK)  # served all the same
    await front.service.kill9()
    nats_server.start()
    await front.service.start()
    await until(lambda: asyncio.sleep(0, front.bus.connected), bool)
    events = await front.usage(4)
    assert sorted(event.source_seq for event in events) == [1, 2, 3, 4]
    assert len({event.id for event in events}) == 4


async def test_a_full_disk_stops_new_requests_and_loses_no_count(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.sdk.chat.completions.create(**ASK)
    await front.usage(1)
    log_size = front.service.log.stat().st_size
    outbox_size = sum(path.stat().st_size for path in (front.folder / "gateway" / "outbox").glob("*.log"))
    _, most = resource.prlimit(front.service.announced.pid, resource.RLIMIT_FSIZE)
    full = max(log_size, outbox_size)
    resource.prlimit(front.service.announced.pid, resource.RLIMIT_FSIZE, (full, most))

    async def fill() -> None:
        for _ in range(50):  # until the file meets its limit; each is served, and none is lost
            await front.sdk.chat.completions.create(**ASK)

    with pytest.raises(openai.InternalServerError) as caught:
        await fill()
    assert (caught.value.status_code, caught.value.code) == (503, "outbox_full")
    status, faults = await front.ready()
    assert status == 503
    assert "free space" in faults["outbox"]
    resource.prlimit(front.service.announced.pid, resource.RLIMIT_FSIZE, (most, most))
    await until(front.ready, lambda answer: answer[0] == 200)
    served = len(scripted_engine.requests)
    events = await front.usage(served)
    assert sorted(event.source_seq for event in events) == list(range(1, served + 1))
