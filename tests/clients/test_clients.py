"""Published clients work after changing only the base URL and the key: each asks the same of a real gateway."""

import asyncio
import json
import re
from typing import Any

import aiohttp
import pytest

from tests.clients.clients import CLIENTS, each
from tests.clients.conftest import AWAKE, SLEEPERS, GatewaySetup
from tests.kit.scripted_engine import Script, ToolCall

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # openai-1 has the HTTP client of 2; the package of openai-node comes from npm's registry.
    each(CLIENTS, long={"openai-1", "openai-node"}),
]
either = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
WORDS = " w1 w2 w3 w4 w5"
WEATHER = ToolCall("weather", '{"city":"Zürich 🏔"}')


def answered(gateway_setup: GatewaySetup, seen: dict[str, Any]) -> dict[str, Any]:
    """What the client saw, once it is known that nothing went wrong and that it has our request id."""
    assert seen["error"] is None
    assert seen["request_id"] == gateway_setup.engine.requests[-1].headers["x-request-id"]
    return seen


async def test_it_is_the_very_version_that_is_pinned(gateway_setup: GatewaySetup) -> None:
    seen = await gateway_setup.driver.ask(do="version")
    assert seen["error"] is None
    assert re.search(rf'(==|"version": "){re.escape(seen["text"])}["\s]', gateway_setup.client.pins.read_text())


@either
async def test_it_is_answered(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    seen = answered(gateway_setup, await gateway_setup.driver.ask(do="chat", model=AWAKE, stream=stream))
    assert (seen["text"], seen["finish"]) == (WORDS, "stop")
    assert seen["usage"] == (None if stream else [7, 5])


async def test_it_gets_a_stream_s_usage_when_requested(gateway_setup: GatewaySetup) -> None:
    seen = answered(gateway_setup, await gateway_setup.driver.ask(do="chat", model=AWAKE, stream=True, usage=True))
    assert (seen["text"], seen["usage"]) == (WORDS, [7, 5])


@either
async def test_it_waits_for_a_wake(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    model = SLEEPERS[stream]
    asking = asyncio.create_task(gateway_setup.driver.ask(do="chat", model=model, stream=stream))
    ask = {"model": model, "messages": [], "stream": True}
    try:
        await gateway_setup.waiting(model)
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {gateway_setup.key}"}) as session,
            session.post(f"{gateway_setup.url}/v1/chat/completions", json=ask) as witness,
        ):
            # It came later and hears its first comments: the client's own stream has had as many by then.
            received = [await witness.content.readline() for _ in range(4)]
            assert received[0].startswith(b": waking")
            assert not asking.done()
    finally:
        await gateway_setup.wake(model)
        seen = await asking
    assert (seen["error"], seen["text"], seen["finish"]) == (None, WORDS, "stop")


@either
async def test_it_gets_the_engine_s_refusal(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    gateway_setup.engine.default = Script(status=400, message="max_tokens is too large: 9000")
    error = (await gateway_setup.driver.ask(do="chat", model=AWAKE, stream=stream))["error"]
    assert {"BadRequestError", "APIError"} <= set(error["kinds"])
    assert (error["status"], str(error["code"])) == (400, "400")  # vLLM's is a number
    assert "max_tokens is too large: 9000" in error["message"]
    assert error["request_id"] == gateway_setup.engine.requests[-1].headers["x-request-id"]
    assert len(gateway_setup.engine.requests) == 1


@either
@pytest.mark.parametrize(
    ("fields", "kind", "status", "code"),
    [
        ({"model": AWAKE, "key": "sk-unknown"}, "AuthenticationError", 401, "invalid_api_key"),
        ({"model": "org/unknown"}, "NotFoundError", 404, "model_not_found"),
    ],
)
async def test_it_gets_our_own_errors(
    gateway_setup: GatewaySetup, *, stream: bool, fields: dict[str, str], kind: str, status: int, code: str
) -> None:
    error = (await gateway_setup.driver.ask(do="chat", stream=stream, **fields))["error"]
    assert {kind, "APIError"} <= set(error["kinds"])
    assert (error["status"], error["code"]) == (status, code)
    assert error["param"] == ("model" if status == 404 else None)
    assert error["request_id"]
    assert gateway_setup.engine.requests == []


@either
async def test_a_used_up_quota_is_reported(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    key = await gateway_setup.spent_key()
    error = (await gateway_setup.driver.ask(do="chat", model=AWAKE, key=key, stream=stream))["error"]
    assert {"RateLimitError", "APIError"} <= set(error["kinds"])
    assert (error["status"], error["code"]) == (429, "insufficient_quota")
    assert gateway_setup.engine.requests == []


@either
async def test_it_gets_a_tool_call(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    gateway_setup.engine.default = Script(tool_calls=(WEATHER, ToolCall("weather", "{}", id="call-2")))
    seen = answered(gateway_setup, await gateway_setup.driver.ask(do="chat", model=AWAKE, stream=stream, tools=True))
    assert [(call["id"], call["name"]) for call in seen["calls"]] == [("call-1", "weather"), ("call-2", "weather")]
    assert [json.loads(call["arguments"]) for call in seen["calls"]] == [{"city": "Zürich 🏔"}, {}]
    assert (seen["text"], seen["finish"]) == ("", "tool_calls")
    assert gateway_setup.engine.requests[-1].body["tools"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize(
    ("script", "delivered"),
    [(Script(reset_after=3), " w1 w2"), (Script(cut_after=3), " w1 w2"), (Script(cut_at=800), " w1")],
    ids=["reset", "closed", "closed within an event"],
)
async def test_a_stream_that_breaks_off_is_no_silent_end(
    gateway_setup: GatewaySetup, script: Script, delivered: str
) -> None:
    gateway_setup.engine.default = script
    seen = await gateway_setup.driver.ask(do="chat", model=AWAKE, stream=True)
    assert seen["error"] is not None
    assert "APIError" in seen["error"]["kinds"]
    assert seen["error"]["code"] == "engine_lost"
    assert (seen["text"], seen["finish"]) == (delivered, None)
    assert len(gateway_setup.engine.requests) == 1


async def test_a_truncated_response_is_retried(gateway_setup: GatewaySetup) -> None:
    gateway_setup.engine.scripts.append(Script(reset_at=100))
    seen = answered(gateway_setup, await gateway_setup.driver.ask(do="chat", model=AWAKE, stream=False))
    assert (seen["text"], seen["usage"]) == (WORDS, [7, 5])
    assert [request.ending for request in gateway_setup.engine.requests] == ["reset", "completed"]


@either
async def test_it_is_responded_to(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    seen = answered(gateway_setup, await gateway_setup.driver.ask(do="respond", model=AWAKE, stream=stream))
    assert (seen["text"], seen["finish"], seen["usage"]) == (WORDS, "completed", [7, 5])
    assert gateway_setup.engine.requests[-1].path == "/v1/responses"


async def test_it_gets_embeddings(gateway_setup: GatewaySetup) -> None:
    seen = await gateway_setup.driver.ask(do="embed", model=AWAKE)
    assert (seen["error"], seen["vectors"]) == (None, [[0.5, -0.25, 1.0]] * 2)
