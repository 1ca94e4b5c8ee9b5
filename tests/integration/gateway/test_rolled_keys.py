"""Both secrets of a rolled key are one key to the gateway, until the earlier one ends."""

import time

import openai
import pytest

from shared.key_store import revoke_key, roll_key
from tests.integration.gateway.conftest import MODEL, Front
from tests.integration.gateway.hostile import Opened
from tests.integration.gateway.test_revocations import refused, status
from tests.kit.scripted_engine import ScriptedEngine


async def ask(front: Front, key: str) -> None:
    """Stream one answer with this secret."""
    sdk = front.sdk.with_options(api_key=key)
    stream = await sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=2, stream=True
    )
    assert [chunk async for chunk in stream]


async def test_both_secrets_serve_and_share_limits_and_usage(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen()
    key_id, first = await front.mint(requests_per_minute=2)
    await front.knows(first)
    second = await roll_key(front.bus, key_id, overlap_s=3600.0, now=time.time())
    await front.knows(second)
    await ask(front, first)
    await ask(front, second)
    for secret in (first, second):
        with pytest.raises(openai.RateLimitError):
            await ask(front, secret)
    assert {event.key_id for event in await front.usage(2)} == {key_id}


async def test_earlier_secret_ends_with_the_overlap_and_revoking_ends_all(opened: Opened) -> None:
    front = await opened()
    key_id, first = await front.mint()
    second = await roll_key(front.bus, key_id, overlap_s=3600.0, now=time.time())
    await front.knows(second)
    assert await status(front, first) == 200
    third = await roll_key(front.bus, key_id, overlap_s=0.0, now=time.time())
    await front.knows(third)
    for secret in (first, second):
        await refused(front, secret)
    assert await status(front, third) == 200
    fourth = await roll_key(front.bus, key_id, overlap_s=3600.0, now=time.time())
    await front.knows(fourth)
    assert await revoke_key(front.bus, key_id, now=time.time())
    for secret in (third, fourth):
        await refused(front, secret)
