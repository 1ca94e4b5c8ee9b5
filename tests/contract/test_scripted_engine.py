"""The scripted engine keeps to its scripts: what the gateway's tests lean on."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from spotinference.engine_counters import parse
from tests.kit.scripted_engine import NAME, Script, ScriptedEngine

CHAT: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
STREAM: dict[str, Any] = {**CHAT, "stream": True}
USAGE: dict[str, Any] = {**STREAM, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


async def _ask(engine: ScriptedEngine, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.post(engine.base_url + path, json=body) as answer:
        return answer.status, await answer.text()


def _chunks(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def test_a_stream_has_usage_in_every_chunk_then_alone_then_done(scripted_engine: ScriptedEngine) -> None:
    scripted_engine.default = Script(tokens=2, prompt_tokens=9, cached_tokens=4)
    _, text = await _ask(scripted_engine, USAGE)
    chunks = _chunks(text)
    assert text.endswith("data: [DONE]\n\n")
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 2]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]] == [None, None, "stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


async def test_usage_is_told_only_when_asked(scripted_engine: ScriptedEngine) -> None:
    _, text = await _ask(scripted_engine, STREAM)
    assert [chunk for chunk in _chunks(text) if "usage" in chunk] == []
    _, text = await _ask(scripted_engine, {**STREAM, "stream_options": {"include_usage": True}})
    assert [chunk["choices"] for chunk in _chunks(text) if "usage" in chunk] == [[]]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_its_counts_are_the_sums_of_usage(scripted_engine: ScriptedEngine, path: str) -> None:
    _, text = await _ask(scripted_engine, {**CHAT, "max_tokens": 3}, path)
    answer = json.loads(text)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 10, "completion_tokens": 3}
    _, streamed = await _ask(scripted_engine, USAGE, path)
    assert _chunks(streamed)[-1]["usage"]["completion_tokens"] == 5
    async with aiohttp.ClientSession() as session, session.get(f"{scripted_engine.base_url}/metrics") as metrics:
        counters = parse(await metrics.text())
    assert (counters.prompt_tokens, counters.completion_tokens, counters.running) == (14, 8, 0)


async def test_it_resets_cuts_and_refuses(scripted_engine: ScriptedEngine) -> None:
    scripted_engine.scripts.extend(
        [Script(reset_after=0), Script(reset_after=3), Script(cut_after=3), Script(status=503, message="full")]
    )
    for _ in range(2):
        with pytest.raises(aiohttp.ClientError):
            await _ask(scripted_engine, STREAM)
    _, text = await _ask(scripted_engine, STREAM)
    assert (len(_chunks(text)), "[DONE]" in text) == (3, False)
    status, text = await _ask(scripted_engine, STREAM)
    error = {"message": "full", "type": "ServiceUnavailableError", "param": None, "code": 503}
    assert (status, json.loads(text)) == (503, {"error": error})
    endings = [seen.ending for seen in scripted_engine.requests]
    assert endings == ["reset", "reset", "cut", "refused"]
    assert [seen.completion_tokens for seen in scripted_engine.requests] == [0, 2, 2, 0]


async def test_it_refuses_as_vllm_does(scripted_engine: ScriptedEngine) -> None:
    assert (await _ask(scripted_engine, {**CHAT, "model": "other"}))[0] == 404
    assert (await _ask(scripted_engine, {**CHAT, "stream_options": {"include_usage": True}}))[0] == 400


async def test_it_sees_a_client_leave(scripted_engine: ScriptedEngine) -> None:
    scripted_engine.scripts.extend([Script(hold_after=2), Script(hold_after=0)])
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{scripted_engine.base_url}/v1/chat/completions", json=STREAM) as answer:
            for _ in range(3):  # the role chunk, its empty line, the first token
                await answer.content.readline()
        seen = await scripted_engine.received(1)
        assert await seen.ended() == "left"
        assert seen.completion_tokens == 1
        waiting = asyncio.create_task(_ask(scripted_engine, CHAT))
        second = await scripted_engine.received(2)
        waiting.cancel()
        assert await second.ended() == "left"


async def test_a_held_answer_goes_on_when_released(scripted_engine: ScriptedEngine) -> None:
    scripted_engine.default = Script(hold_after=2)
    asked = asyncio.create_task(_ask(scripted_engine, STREAM))
    await scripted_engine.received(1)
    assert scripted_engine.running == 1
    scripted_engine.release()
    assert (await asked)[1].endswith("data: [DONE]\n\n")
