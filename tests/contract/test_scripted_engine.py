"""The scripted engine keeps to its scripts: what the gateway's tests lean on."""

import asyncio
import base64
import json
import struct
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from services.meter.core.engine_counters import parse
from tests.kit.scripted_engine import NAME, Script, ScriptedEngine, ToolCall

CHAT: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
STREAM: dict[str, Any] = {**CHAT, "stream": True}
USAGE: dict[str, Any] = {**STREAM, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


async def _ask(engine: ScriptedEngine, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.post(engine.base_url + path, json=body) as answer:
        return answer.status, await answer.text()


async def _pieces(engine: ScriptedEngine, body: dict[str, Any]) -> list[bytes]:
    """The answer as it was written, write by write."""
    url = engine.base_url + "/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        pieces = [b""]
        async for data, ended in answer.content.iter_chunks():
            pieces[-1] += data
            pieces += [b""] if ended else []
        return [piece for piece in pieces if piece]


def _deltas(text: str, choice: int = 0) -> list[dict[str, Any]]:
    return [c["delta"] for chunk in _chunks(text) for c in chunk["choices"] if c["index"] == choice][1:]


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


async def test_usage_is_sent_only_when_requested(scripted_engine: ScriptedEngine) -> None:
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


async def test_it_resets_cuts_and_rejects(scripted_engine: ScriptedEngine) -> None:
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


async def test_it_rejects_as_vllm_does(scripted_engine: ScriptedEngine) -> None:
    assert (await _ask(scripted_engine, {**CHAT, "model": "other"}))[0] == 404
    assert (await _ask(scripted_engine, {**CHAT, "stream_options": {"include_usage": True}}))[0] == 400


async def test_it_notices_when_a_client_leaves(scripted_engine: ScriptedEngine) -> None:
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
    request = asyncio.create_task(_ask(scripted_engine, STREAM))
    await scripted_engine.received(1)
    assert scripted_engine.running == 1
    scripted_engine.release()
    assert (await request)[1].endswith("data: [DONE]\n\n")


WEATHER = ToolCall("weather", '{"city":"Zürich 🏔"}')


async def test_a_tool_call_comes_in_fragments_or_whole(scripted_engine: ScriptedEngine) -> None:
    scripted_engine.default = Script(tool_calls=(WEATHER, ToolCall("time", "{}", id="call-2")))
    _, text = await _ask(scripted_engine, USAGE)
    fragments = [call for delta in _deltas(text) for call in delta["tool_calls"]]
    assert [call["index"] for call in fragments] == [0] * 5 + [1] * 2
    assert fragments[0]["id"] == "call-1"
    assert fragments[0]["function"] == {"name": "weather", "arguments": ""}
    assert "".join(call["function"]["arguments"] for call in fragments[:5]) == WEATHER.arguments
    assert _chunks(text)[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert _chunks(text)[-1]["usage"]["completion_tokens"] == 7
    _, text = await _ask(scripted_engine, CHAT)
    message = json.loads(text)["choices"][0]["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather", "time"]
    assert message["tool_calls"][0]["function"]["arguments"] == WEATHER.arguments


async def test_reasoning_comes_first_and_is_counted(scripted_engine: ScriptedEngine) -> None:
    scripted_engine.default = Script(tokens=3, reasoning_tokens=2)
    _, text = await _ask(scripted_engine, USAGE)
    assert _deltas(text) == [{"reasoning_content": " r1"}, {"reasoning_content": " r2"}, {"content": " w3"}]
    assert _chunks(text)[1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}
    _, text = await _ask(scripted_engine, CHAT)
    answer = json.loads(text)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": " w3", "reasoning_content": " r1 r2"}
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


async def test_n_choices_come_interleaved_and_all_count(scripted_engine: ScriptedEngine) -> None:
    _, text = await _ask(scripted_engine, {**USAGE, "n": 2, "max_tokens": 2, "logprobs": True})
    chunks = _chunks(text)
    assert [choice["index"] for chunk in chunks for choice in chunk["choices"]] == [0, 1] * 3
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    echo = {"token": " w1", "logprob": -0.5, "bytes": [32, 119, 49], "top_logprobs": []}
    assert chunks[2]["choices"][0]["logprobs"] == {"content": [echo]}
    _, text = await _ask(scripted_engine, {**CHAT, "n": 2, "max_tokens": 2, "logprobs": True})
    answer = json.loads(text)
    assert [choice["message"]["content"] for choice in answer["choices"]] == [" w1 w2"] * 2
    assert answer["usage"]["completion_tokens"] == scripted_engine.requests[1].completion_tokens == 4


@pytest.mark.parametrize("streamed", [False, True])
async def test_structured_output_is_an_object_of_the_schema(scripted_engine: ScriptedEngine, *, streamed: bool) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}}}
    options = {"response_format": {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}}
    _, text = await _ask(scripted_engine, {**CHAT, **options, "stream": streamed})
    if streamed:
        content = "".join(delta["content"] for delta in _deltas(text))
    else:
        content = json.loads(text)["choices"][0]["message"]["content"]
    assert json.loads(content) == {"city": "w", "degrees": 0.5}


async def test_an_engine_may_send_no_usage(scripted_engine: ScriptedEngine) -> None:
    scripted_engine.default = Script(reports_usage=False)
    for body in (CHAT, USAGE):
        _, text = await _ask(scripted_engine, body)
        assert "usage" not in text
    assert scripted_engine.completion_tokens == 10


async def test_embeddings_are_numbers_or_packed(scripted_engine: ScriptedEngine) -> None:
    ask = {"model": NAME, "input": ["a", "b"]}
    _, text = await _ask(scripted_engine, ask, "/v1/embeddings")
    answer = json.loads(text)
    assert [row["embedding"] for row in answer["data"]] == [[0.5, -0.25, 1.0]] * 2
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["total_tokens"]) == (7, 7)
    _, text = await _ask(scripted_engine, {**ask, "encoding_format": "base64"}, "/v1/embeddings")
    packed = base64.b64decode(json.loads(text)["data"][0]["embedding"])
    assert struct.unpack("<3f", packed) == (0.5, -0.25, 1.0)


async def test_a_response_comes_in_named_events_or_whole(scripted_engine: ScriptedEngine) -> None:
    scripted_engine.default = Script(tokens=2, cached_tokens=3)
    ask = {"model": NAME, "input": "hi"}
    _, text = await _ask(scripted_engine, {**ask, "stream": True}, "/v1/responses")
    chunks = _chunks(text)
    names = ["response.created", *["response.output_text.delta"] * 2, "response.completed"]
    assert [line[7:] for line in text.splitlines() if line.startswith("event: ")] == names
    assert [chunk["type"] for chunk in chunks] == names
    assert [chunk["sequence_number"] for chunk in chunks] == [0, 1, 2, 3]
    _, whole = await _ask(scripted_engine, ask, "/v1/responses")
    assert json.loads(whole) == chunks[-1]["response"]
    usage = json.loads(whole)["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["input_tokens_details"]) == (
        7,
        2,
        {"cached_tokens": 3},
    )


async def test_bytes_are_written_in_the_scripts_pieces(scripted_engine: ScriptedEngine) -> None:
    whole = Script(words=(" héllo", " 👩‍🚀", " 漢字"), vendor={"x_vendor": [1]}, line_end="\r\n")
    scripted_engine.default = whole
    events = await _pieces(scripted_engine, STREAM)
    scripted_engine.default = replace(whole, write_size=3)
    pieces = await _pieces(scripted_engine, STREAM)
    assert b"".join(pieces) == b"".join(events)
    assert max(len(piece) for piece in pieces) == 3
    assert any("\ufffd" in piece.decode(errors="replace") for piece in pieces)  # characters are cut in two
    assert len(events) == 5
    assert all(event.endswith(b"\r\n\r\n") for event in events)
    chunk = _chunks(events[1].decode())[0]
    assert chunk["x_vendor"] == chunk["choices"][0]["x_vendor"] == [1]


async def test_a_body_breaks_off_at_a_byte(scripted_engine: ScriptedEngine) -> None:
    scripted_engine.default = Script(reset_at=20)
    for body in (CHAT, STREAM):
        with pytest.raises(aiohttp.ClientError):
            await _ask(scripted_engine, body)
    scripted_engine.default = Script()
    _, whole = await _ask(scripted_engine, STREAM)
    scripted_engine.default = Script(cut_at=300)
    _, text = await _ask(scripted_engine, STREAM)
    assert text == whole[:300]
    assert [seen.ending for seen in scripted_engine.requests] == ["reset", "reset", "completed", "cut"]
    assert scripted_engine.requests[-1].completion_tokens == 1
