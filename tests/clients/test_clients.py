"""Published clients work after changing only the base URL and the key: each asks the same of a real gateway."""

import asyncio
import json
import re
from typing import Any

import aiohttp
import pytest

from tests.clients.clients import CLIENTS, each
from tests.clients.conftest import AWAKE, SLEEPERS, House
from tests.kit.scripted_engine import Script, ToolCall

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    each(CLIENTS, long={"openai-node"}),  # its package comes from npm's registry
]
either = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
WORDS = " w1 w2 w3 w4 w5"
WEATHER = ToolCall("weather", '{"city":"Zürich 🏔"}')


def answered(house: House, seen: dict[str, Any]) -> dict[str, Any]:
    """What the client saw, once it is known that nothing went wrong and that it has our request id."""
    assert seen["error"] is None
    assert seen["request_id"] == house.engine.requests[-1].headers["x-request-id"]
    return seen


async def test_it_is_the_very_version_that_is_pinned(house: House) -> None:
    seen = await house.driver.ask(do="version")
    assert seen["error"] is None
    assert re.search(rf'(==|"version": "){re.escape(seen["text"])}["\s]', house.client.pins.read_text())


@either
async def test_it_is_answered(house: House, *, stream: bool) -> None:
    seen = answered(house, await house.driver.ask(do="chat", model=AWAKE, stream=stream))
    assert (seen["text"], seen["finish"]) == (WORDS, "stop")
    assert seen["usage"] == (None if stream else [7, 5])


async def test_it_gets_a_stream_s_usage_when_requested(house: House) -> None:
    seen = answered(house, await house.driver.ask(do="chat", model=AWAKE, stream=True, usage=True))
    assert (seen["text"], seen["usage"]) == (WORDS, [7, 5])


@either
async def test_it_waits_for_a_wake(house: House, *, stream: bool) -> None:
    model = SLEEPERS[stream]
    asking = asyncio.create_task(house.driver.ask(do="chat", model=model, stream=stream))
    ask = {"model": model, "messages": [], "stream": True}
    try:
        await house.waiting(model)
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {house.key}"}) as session,
            session.post(f"{house.url}/v1/chat/completions", json=ask) as witness,
        ):
            # It came later and hears its first comments: the client's own stream has had as many by then.
            received = [await witness.content.readline() for _ in range(4)]
            assert received[0].startswith(b": waking")
            assert not asking.done()
    finally:
        await house.wake(model)
        seen = await asking
    assert (seen["error"], seen["text"], seen["finish"]) == (None, WORDS, "stop")


@either
async def test_it_gets_the_engine_s_refusal(house: House, *, stream: bool) -> None:
    house.engine.default = Script(status=400, message="max_tokens is too large: 9000")
    error = (await house.driver.ask(do="chat", model=AWAKE, stream=stream))["error"]
    assert {"BadRequestError", "APIError"} <= set(error["kinds"])
    assert (error["status"], str(error["code"])) == (400, "400")  # vLLM's is a number
    assert "max_tokens is too large: 9000" in error["message"]
    assert error["request_id"] == house.engine.requests[-1].headers["x-request-id"]
    assert len(house.engine.requests) == 1


@either
@pytest.mark.parametrize(
    ("sent_request", "kind", "status", "code"),
    [
        ({"model": AWAKE, "key": "sk-unknown"}, "AuthenticationError", 401, "invalid_api_key"),
        ({"model": "org/unknown"}, "NotFoundError", 404, "model_not_found"),
    ],
)
async def test_it_gets_our_own_errors(
    house: House, *, stream: bool, fields: dict[str, str], kind: str, status: int, code: str
) -> None:
    error = (await house.driver.ask(do="chat", stream=stream, **fields))["error"]
    assert {kind, "APIError"} <= set(error["kinds"])
    assert (error["status"], error["code"]) == (status, code)
    assert error["param"] == ("model" if status == 404 else None)
    assert error["request_id"]
    assert house.engine.requests == []


@either
async def test_a_used_up_quota_is_reported(house: House, *, stream: bool) -> None:
    key = await house.spent_key()
    error = (await house.driver.ask(do="chat", model=AWAKE, key=key, stream=stream))["error"]
    assert {"RateLimitError", "APIError"} <= set(error["kinds"])
    assert (error["status"], error["code"]) == (429, "insufficient_quota")
    assert house.engine.requests == []


@either
async def test_it_gets_a_tool_call(house: House, *, stream: bool) -> None:
    house.engine.default = Script(tool_calls=(WEATHER, ToolCall("weather", "{}", id="call-2")))
    seen = answered(house, await house.driver.ask(do="chat", model=AWAKE, stream=stream, tools=True))
    assert [(call["id"], call["name"]) for call in seen["calls"]] == [("call-1", "weather"), ("call-2", "weather")]
    assert [json.loads(call["arguments"]) for call in seen["calls"]] == [{"city": "Zürich 🏔"}, {}]
    assert (seen["text"], seen["finish"]) == ("", "tool_calls")
    assert house.engine.requests[-1].body["tools"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize(
    ("script", "delivered"),
    [(Script(reset_after=3), " w1 w2"), (Script(cut_after=3), " w1 w2"), (Script(cut_at=800), " w1")],
    ids=["reset", "closed", "closed within an event"],
)
async def test_a_stream_that_breaks_off_is_no_silent_end(house: House, script: Script, delivered: str) -> None:
    house.engine.default = script
    seen = await house.driver.ask(do="chat", model=AWAKE, stream=True)
    assert seen["error"] is not None
    assert "APIError" in seen["error"]["kinds"]
    assert seen["error"]["code"] == "engine_lost"
    assert (seen["text"], seen["finish"]) == (delivered, None)
    assert len(house.engine.requests) == 1


async def test_a_truncated_response_is_retried(house: House) -> None:
    house.engine.scripts.append(Script(reset_at=100))
    seen = answered(house, await house.driver.ask(do="chat", model=AWAKE, stream=False))
    assert (seen["text"], seen["usage"]) == (WORDS, [7, 5])
    assert [request.ending for request in house.engine.requests] == ["reset", "completed"]


@either
async def test_it_is_responded_to(house: House, *, stream: bool) -> None:
    seen = answered(house, await house.driver.ask(do="respond", model=AWAKE, stream=stream))
    assert (seen["text"], seen["finish"], seen["usage"]) == (WORDS, "completed", [7, 5])
    assert house.engine.requests[-1].path == "/v1/responses"


async def test_it_gets_embeddings(house: House) -> None:
    seen = await house.driver.ask(do="embed", model=AWAKE)
    assert (seen["error"], seen["vectors"]) == (None, [[0.5, -0.25, 1.0]] * 2)
