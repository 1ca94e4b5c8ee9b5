"""What an engine understands passes through unharmed: the same bytes on both sides, but for what must change."""

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import msgspec
import pytest

from shared.messages.gateway import Basis
from tests.integration.gateway.conftest import MODEL, Front
from tests.kit.scripted_engine import NAME, Script, ScriptedEngine, ToolCall

Opened = Callable[..., Awaitable[Front]]
CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)
HI = '"messages":[{"role":"user","content":"hi"}]'
PROMPT = '"prompt":"hi"'
INPUT = '"input":"hi"'
IMAGE = base64.b64encode(bytes(range(256)) * 2048).decode()
TOOLS = (
    '"tools":[{"type":"function","function":{"name":"weather","strict":true,"parameters":{"type":"object",'
    '"properties":{"city":{"type":"string"},"stream":{"type":"boolean"}}}}}],"tool_choice":"required"'
)
SCHEMA = (
    '"response_format":{"type":"json_schema","json_schema":{"name":"weather","strict":true,"schema":'
    '{"type":"object","properties":{"city":{"type":"string"},"degrees":{"type":"number"}}}}}'
)
CALL = ToolCall("weather", '{"city":"Zürich 🏔","say":"\\"hi\\"\\n"}')

FIELDS = {
    "tools": f'{HI},{TOOLS},"parallel_tool_calls":false',
    "what a tool answered": '"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",'
    '"function":{"name":"weather","arguments":"{\\"city\\": \\"Z\\"}"}}]},{"role":"tool","tool_call_id":"c",'
    '"content":"{\\"degrees\\":1.50}"}]',
    "a schema": f"{HI},{SCHEMA}",
    "probabilities, choices, seed": f'{HI},"logprobs":true,"top_logprobs":5,"n":3,"seed":18446744073709551615',
    "numbers as they were written": f'{HI},"temperature":1e-1,"top_p":0.30000000000000004,"x":[1.0,-0.0,1E2,'
    "123456789012345678901234567890]",
    "an image of half a megabyte": '"messages":[{"role":"user","content":[{"type":"text","text":"what?"},'
    f'{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{IMAGE}","detail":"low"}}}}]}}]',
    "vendors' own": f'{HI},"guided_regex":"\\\\d+","chat_template_kwargs":{{"enable_thinking":false}},"x":{{"model":'
    '"inner","stream":true,"stream_options":null},"y":null',
    "characters as they are": '"messages":[{"role":"user","content":"Zürich 漢字 👩‍🚀 \u2028 \u00a0"}]',
    "characters escaped": '"messages":[{"role":"user","content":"Z\\u00fcrich \\ud83d\\ude00 \\/ \\u0000"}]',
}


@dataclass(frozen=True)
class Way:
    """Asks through the gateway, and the engine itself with what the gateway would have to send at the least."""

    front: Front
    engine: ScriptedEngine

    async def through(self, path: str, fields: str) -> bytes:
        headers = {"Authorization": f"Bearer {self.front.key}"}
        return await _post(self.front.url + path, f'{{"model":"{MODEL}",{fields}}}', headers)

    async def direct(self, path: str, fields: str) -> bytes:
        return await _post(self.engine.base_url + path, f'{{"model":"{NAME}",{fields}}}', {})


@pytest.fixture
async def way(opened: Opened, scripted_engine: ScriptedEngine) -> Way:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    return Way(front, scripted_engine)


async def _post(url: str, body: str, headers: dict[str, str]) -> bytes:
    headers = {**headers, "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, data=body.encode()) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.read()


def _members(body: bytes) -> dict[str, bytes]:
    """Each as it was written."""
    return {name: bytes(raw) for name, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}


async def test_a_body_reaches_the_engine_byte_for_byte_under_the_served_name(way: Way) -> None:
    for what, fields in FIELDS.items():
        await way.through(CHAT, fields)
        sent = f'{{"model":"{NAME}",{fields}}}'.encode()
        assert way.engine.requests[-1].raw == sent, what


async def test_a_body_keeps_its_own_blanks(way: Way) -> None:
    fields = json.dumps({"messages": [], "seed": 7}, indent=2)[1:-1]
    await way.through(CHAT, fields)
    assert way.engine.requests[-1].raw == f'{{"model":"{NAME}",{fields}}}'.encode()


@pytest.mark.parametrize(
    "options", [None, "null", '{"include_usage":true}', '{"x_option":[1.0],"include_usage":false}']
)
async def test_a_stream_s_body_changes_in_its_options_alone(way: Way, options: str | None) -> None:
    added = ',"stream":true' + (f',"stream_options":{options}' if options else "")
    for what, fields in FIELDS.items():
        await way.through(CHAT, fields + added)
        sent = _members(f'{{"model":"{NAME}",{fields},"stream":true}}'.encode())
        got = _members(way.engine.requests[-1].raw)
        reported = json.loads(got.pop("stream_options"))
        assert list(got.items()) == list(sent.items()), what
        theirs = json.loads(options or "null") or {}
        assert reported == theirs | {"include_usage": True, "continuous_usage_stats": True}


ANSWERS: dict[str, tuple[str, str, Script]] = {
    "words": (CHAT, HI, Script()),
    "tool calls": (CHAT, f"{HI},{TOOLS}", Script(tool_calls=(CALL, replace(CALL, id="call-2")))),
    "reasoning": (CHAT, HI, Script(tokens=4, reasoning_tokens=2, cached_tokens=3)),
    "a schema's object": (CHAT, f"{HI},{SCHEMA}", Script()),
    "choices and probabilities": (CHAT, f'{HI},"n":2,"logprobs":true', Script(tokens=3)),
    "characters": (CHAT, f'{HI},"logprobs":true', Script(words=(" Zürich", " 👩‍🚀", " 漢\u2028字", ' "\\'))),
    "vendors' own": (CHAT, HI, Script(vendor={"stop_token": 2, "x": {"usage": None, "y": [1.0]}})),
    "carriage returns": (CHAT, HI, Script(line_end="\r\n")),
    "no usage": (CHAT, HI, Script(reports_usage=False)),
    "text": (COMPLETIONS, f'{PROMPT},"n":2,"logprobs":1', Script()),
    "a response": (RESPONSES, INPUT, Script(words=(" Zürich", " 👩‍🚀"), cached_tokens=3)),
    "a response cut short": (RESPONSES, f'{INPUT},"max_output_tokens":2', Script()),
}


async def test_a_buffered_response_passes_unchanged(way: Way) -> None:
    for what, (path, fields, script) in ANSWERS.items():
        way.engine.default = script
        assert await way.through(path, fields) == await way.direct(path, fields), what


async def test_embeddings_come_as_the_engine_wrote_them(way: Way) -> None:
    for what in ('"input":["a","b"]', '"input":[1,2],"encoding_format":"base64"', '"input":"a","dimensions":3'):
        assert await way.through(EMBEDDINGS, what) == await way.direct(EMBEDDINGS, what), what


@pytest.mark.parametrize(
    "options",
    [
        "null",
        '{"include_usage":true}',
        '{"include_usage":true,"continuous_usage_stats":true}',
        '{"include_usage":false,"continuous_usage_stats":true}',
    ],
)
async def test_a_stream_comes_as_the_engine_would_have_written_it_for_the_client_itself(way: Way, options: str) -> None:
    for what, (path, fields, script) in ANSWERS.items():
        way.engine.default = script
        request_fields = f'{fields},"stream":true,"stream_options":{options}'
        assert await way.through(path, request_fields) == await way.direct(path, request_fields), what


@pytest.mark.parametrize("size", [1, 5, 64])
async def test_a_stream_may_arrive_cut_at_any_byte(way: Way, size: int) -> None:
    for what in ("characters", "tool calls", "carriage returns"):
        path, fields, script = ANSWERS[what]
        request_fields = f'{fields},"stream":true'
        way.engine.default = script
        expected = await way.direct(path, request_fields)
        way.engine.default = replace(script, write_size=size)
        assert await way.through(path, request_fields) == expected, what


@pytest.mark.parametrize("cleanly", [True, False])
async def test_an_event_that_breaks_off_is_left_out_and_one_error_follows(way: Way, *, cleanly: bool) -> None:
    path, fields, script = ANSWERS["characters"]
    request_fields = f'{fields},"stream":true'
    way.engine.default = script
    whole = await way.direct(path, request_fields)
    astronaut = (await _spoken(way, path, request_fields)).index("👩".encode())
    for at in (astronaut + 2, astronaut + 60):  # within a character, within the rest of its event
        way.engine.default = replace(script, cut_at=at) if cleanly else replace(script, reset_at=at)
        *events, error, end = (await way.through(path, request_fields)).split(b"\n\n")
        assert end == b""
        assert whole.split(b"\n\n")[: len(events)] == events
        assert len(events) == 2
        assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "engine_lost"


async def _spoken(way: Way, path: str, request_fields: str) -> bytes:
    """What the engine writes to a gateway, usage included."""
    return await way.direct(
        path, f'{request_fields},"stream_options":{{"include_usage":true,"continuous_usage_stats":true}}'
    )


@dataclass(frozen=True)
class Counted:
    """A request and what its usage event says of it."""

    path: str
    fields: str
    script: Script
    tokens: tuple[int, int, int, int]
    """Prompt, cached, completion, reasoning."""
    basis: Basis = "engine"


STREAM = '"stream":true'
SILENT = Script(tokens=3, reports_usage=False)
COUNTED: dict[str, Counted] = {
    "all choices": Counted(CHAT, f'{HI},"n":2', Script(tokens=3), (7, 0, 6, 0)),
    "all choices of a stream": Counted(CHAT, f'{HI},"n":2,{STREAM}', Script(tokens=3), (7, 0, 6, 0)),
    "cached and reasoning": Counted(CHAT, HI, Script(cached_tokens=4, reasoning_tokens=2), (7, 4, 5, 2)),
    "the same streamed": Counted(CHAT, f"{HI},{STREAM}", Script(cached_tokens=4, reasoning_tokens=2), (7, 4, 5, 2)),
    "a tool call": Counted(CHAT, f"{HI},{STREAM}", Script(tool_calls=(ToolCall("f", '{"a":1}'),)), (7, 0, 3, 0)),
    "text": Counted(COMPLETIONS, f"{PROMPT},{STREAM}", Script(), (7, 0, 5, 0)),
    "embeddings": Counted(EMBEDDINGS, INPUT, Script(prompt_tokens=9), (9, 0, 0, 0)),
    "a response": Counted(RESPONSES, INPUT, Script(cached_tokens=4, reasoning_tokens=2), (7, 4, 5, 2)),
    "a response streamed": Counted(
        RESPONSES, f"{INPUT},{STREAM}", Script(cached_tokens=4, reasoning_tokens=2), (7, 4, 5, 2)
    ),
    "deltas": Counted(CHAT, f'{HI},"n":2,{STREAM}', SILENT, (0, 0, 6, 0), "counted"),
    "deltas of reasoning": Counted(
        CHAT, f"{HI},{STREAM}", replace(SILENT, reasoning_tokens=2), (0, 0, 3, 0), "counted"
    ),
    "deltas of a tool call": Counted(
        CHAT, f"{HI},{STREAM}", replace(SILENT, tool_calls=(ToolCall("f", '{"a":1}'),)), (0, 0, 3, 0), "counted"
    ),
    "deltas of text": Counted(COMPLETIONS, f"{PROMPT},{STREAM}", SILENT, (0, 0, 3, 0), "counted"),
    "deltas of a response": Counted(RESPONSES, f"{INPUT},{STREAM}", SILENT, (0, 0, 3, 0), "counted"),
    "nothing told": Counted(CHAT, HI, SILENT, (0, 0, 0, 0), "none"),
}


async def test_usage_is_the_engine_s_or_one_token_per_delta(way: Way) -> None:
    for case in COUNTED.values():
        way.engine.default = case.script
        await way.through(case.path, case.fields)
    events: list[Any] = sorted(await way.front.usage(len(COUNTED)), key=lambda event: event.source_seq)
    for (what, case), event in zip(COUNTED.items(), events, strict=True):
        reported = (event.prompt_tokens, event.cached_tokens, event.completion_tokens, event.reasoning_tokens)
        assert (what, reported, event.basis) == (what, case.tokens, case.basis)
        assert (what, event.outcome) == (what, "completed")
