"""Load generators work with only the base URL and the key changed, and count what the gateway lets them count."""

import asyncio

import pytest

from tests.clients.clients import LOAD_TOOLS, each
from tests.clients.conftest import AWAKE, SLEEPERS, GatewaySetup
from tests.clients.load_tools import REQUESTS
from tests.kit.scripted_engine import Script

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.long,
    pytest.mark.timeout(900),  # the first test of each waits for its installation
    each(LOAD_TOOLS),
]
either = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@either
async def test_every_request_is_answered_and_counted(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    seen = await gateway_setup.driver.ask(do="load", model=AWAKE, stream=stream)
    assert (seen["error"], seen["errors"]) == (None, [])
    assert seen["usage"] == [[7, 5]] * REQUESTS
    assert [request.body.get("stream", False) for request in gateway_setup.engine.requests] == [stream] * REQUESTS


@either
async def test_the_first_request_waits_for_a_wake(gateway_setup: GatewaySetup, *, stream: bool) -> None:
    loading = asyncio.create_task(gateway_setup.driver.ask(do="load", model=SLEEPERS[stream], stream=stream))
    try:
        await gateway_setup.waiting(SLEEPERS[stream])
        assert not loading.done()
    finally:
        await gateway_setup.wake(SLEEPERS[stream])
        seen = await loading
    assert (seen["error"], seen["errors"], len(seen["usage"])) == (None, [], REQUESTS)


async def test_a_wrong_key_is_an_error_of_each_request(gateway_setup: GatewaySetup) -> None:
    seen = await gateway_setup.driver.ask(do="load", model=AWAKE, key="sk-unknown", stream=True)
    assert "401" in str(seen)
    assert gateway_setup.engine.requests == []


async def test_used_up_tokens_are_an_error_of_each_request(gateway_setup: GatewaySetup) -> None:
    seen = await gateway_setup.driver.ask(do="load", model=AWAKE, key=await gateway_setup.spent_key(), stream=True)
    assert "429" in str(seen)
    assert gateway_setup.engine.requests == []


@pytest.mark.parametrize("script", [Script(reset_after=3), Script(cut_after=3)], ids=["reset", "closed"])
async def test_a_broken_stream_counts_for_no_load_tool(gateway_setup: GatewaySetup, script: Script) -> None:
    """aiperf passes over an event that says `error`, and has no counts of its request; guidellm has an error."""
    gateway_setup.engine.default = script
    seen = await gateway_setup.driver.ask(do="load", model=AWAKE, stream=True)
    assert (seen["error"], seen["usage"]) == (None, [])
    assert len(gateway_setup.engine.requests) == REQUESTS
    assert len(seen["errors"]) == (0 if gateway_setup.client.name == "aiperf" else REQUESTS)
