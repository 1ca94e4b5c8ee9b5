"""Frameworks built on OpenAI's clients, or standing beside them, work with only the base URL and the key changed."""

import asyncio
import json

import pytest

from tests.clients.clients import FRAMEWORKS, each
from tests.clients.conftest import AWAKE, SLEEPERS, GatewaySetup
from tests.kit.scripted_engine import Script, ToolCall

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.long,
    pytest.mark.timeout(900),  # the first test of each waits for its installation
    each(FRAMEWORKS),
]
either = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
WORDS = "w1 w2 w3 w4 w5"
EDIT = ("weather.txt\n", "<<<<<<< SEARCH\n", "city\n", "=======\n", '{"city":"Zürich"}\n', ">>>>>>> REPLACE\n")


@either
async def test_it_is_answered(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    seen = await gateway_setup.driver.ask(do="chat", model=AWAKE, stream=stream)
    assert (seen["error"], seen["text"].strip()) == (None, WORDS)
    assert seen["usage"] in ([7, 5], None)
    assert [request.body["model"] for request in gateway_setup.engine.requests] == [gateway_setup.engine.name]


@either
async def test_it_waits_for_a_wake(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    asking = asyncio.create_task(gateway_setup.driver.ask(do="chat", model=SLEEPERS[stream], stream=stream))
    try:
        await gateway_setup.waiting(SLEEPERS[stream])
        assert not asking.done()
    finally:
        await gateway_setup.wake(SLEEPERS[stream])
        seen = await asking
    assert (seen["error"], seen["text"].strip()) == (None, WORDS)


@either
async def test_a_wrong_key_is_reported(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    error = (await gateway_setup.driver.ask(do="chat", model=AWAKE, key="sk-unknown", stream=stream))["error"]
    assert error is not None
    assert error["status"] in (401, None)
    assert "API key" in error["message"]
    assert gateway_setup.engine.requests == []


@either
async def test_a_used_up_quota_is_reported(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    key = await gateway_setup.spent_key()
    error = (await gateway_setup.driver.ask(do="chat", model=AWAKE, key=key, stream=stream))["error"]
    assert error is not None
    assert error["status"] in (429, None)
    assert "tokens" in error["message"]
    assert gateway_setup.engine.requests == []


async def test_it_gets_what_has_a_shape(gateway_setup: GatewaySetup) -> None:
    if gateway_setup.client.name == "aider":
        gateway_setup.engine.scripts.append(Script(words=EDIT))
    else:
        gateway_setup.engine.scripts.append(Script(tool_calls=(ToolCall("weather", '{"city":"Zürich"}'),)))
    seen = await gateway_setup.driver.ask(do="chat", model=AWAKE, stream=False, tools=True)
    assert seen["error"] is None
    assert [(call["name"], json.loads(call["arguments"])) for call in seen["calls"]] == [
        ("weather", {"city": "Zürich"})
    ]


@pytest.mark.parametrize("script", [Script(reset_after=3), Script(cut_after=3)], ids=["reset", "closed"])
async def test_a_stream_that_breaks_off_is_no_silent_end(gateway_setup: GatewaySetup, script: Script) -> None:
    gateway_setup.engine.default = script
    seen = await gateway_setup.driver.ask(do="chat", model=AWAKE, stream=True)
    assert seen["error"] is not None
    assert seen["text"].strip() == "w1 w2"
