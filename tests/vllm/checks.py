"""What is checked of a real vLLM behind the whole suite, one promise after the other."""

import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import aiohttp
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk, ChatCompletionFunctionToolParam

from services.meter.core.engine_counters import parse
from tests.kit.up import UpProcess
from tests.kit.waiting import until

MODEL = "tiny"
ENGINE_KEY = "engine-key-of-the-check"
WAKE = "8m"
PATIENCE_SECONDS = 300.0
ABORT_SECONDS = 2.0
"""The promise is 100 ms; the engine's page says so a little later, on a machine that has other work."""
ABORTED_AFTER = 5
"""Chunks."""
LONG = 12_000
"""Tokens: they take a while even with a tiny model."""
TOOL: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Switch a light.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"on": {"type": "boolean"}, "room": {"enum": ["kitchen", "hall"]}},
            "required": ["on", "room"],
            "additionalProperties": False,
        },
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "is_large": {"type": "boolean"}},
    "required": ["colour", "is_large"],
    "additionalProperties": False,
}


class Checks:
    """The checks in their order; each raises `AssertionError` or returns what it saw."""

    def __init__(self, suite: UpProcess, client: AsyncOpenAI) -> None:
        self._suite = suite
        self._client = client

    def all(self) -> dict[str, Callable[[], Coroutine[Any, Any, str]]]:
        return {
            "wake": self.wake,
            "stream": self.stream,
            "usage in each chunk": self.running_usage,
            "tools": self.tools,
            "JSON schema": self.schema,
            "the engine's key": self.engine_key,
            "counters against the ledger": self.counters,
            "abort": self.abort,
            "counters after an abort": self.counters_after_abort,
            "check --machine": self.machine_check,
        }

    async def wake(self) -> str:
        """A request is held until the engine has loaded."""
        states = await self._suite.states()
        assert states == {"vllm-1": "asleep"}, states
        began_at = time.monotonic()
        answer = await self._client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Good morning."}], max_tokens=4
        )
        assert answer.usage is not None
        assert 1 <= answer.usage.completion_tokens <= 4
        return f"first answer {time.monotonic() - began_at:.1f} s after the request that woke it"

    async def stream(self) -> str:
        chunks = [chunk async for chunk in self._stream("Count to ten.", max_tokens=20)]
        choices = [choice for chunk in chunks for choice in chunk.choices]
        assert choices[0].delta.role == "assistant"
        assert choices[-1].finish_reason in ("stop", "length")
        assert all(chunk.usage is None for chunk in chunks), "the client did not ask for usage"
        return f"{len(chunks)} chunks, ended by {choices[-1].finish_reason}"

    async def running_usage(self) -> str:
        options = {"include_usage": True, "continuous_usage_stats": True}
        chunks = [chunk async for chunk in self._stream("Say it again.", max_tokens=16, stream_options=options)]
        totals = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
        assert len(totals) == len(chunks)
        assert totals == sorted(totals)
        assert chunks[-1].choices == []
        return f"{len(chunks)} chunks, from {totals[0]} to {totals[-1]} tokens"

    async def tools(self) -> str:
        answer = await self._client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Light in the kitchen, please."}],
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "set_light"}},
            max_tokens=200,
        )
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "set_light"
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == {"on", "room"}
        assert arguments["room"] in ("kitchen", "hall")
        return str(call.function.arguments)

    async def schema(self) -> str:
        answer = await self._client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Describe the apple."}],
            response_format={"type": "json_schema", "json_schema": {"name": "apple", "schema": SCHEMA}},
            max_tokens=200,
        )
        text = answer.choices[0].message.content or ""
        apple = json.loads(text)
        assert apple["colour"] in ("red", "green")
        assert isinstance(apple["is_large"], bool)
        return json.dumps(apple)

    async def engine_key(self) -> str:
        """The engine refuses a request without its key, with which the gateway and the waker have reached it."""
        url = f"{await self._endpoint()}/v1/models"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert response.status == 401, response.status
        return "401 without it"

    async def counters(self) -> str:
        """Engine and ledger agree to the token while no request was given up."""

        async def figures() -> dict[str, Any]:
            return (await self._engine_link())["figures"]  # type: ignore[no-any-return]  # JSON

        def agree(seen: dict[str, Any]) -> bool:
            return bool(seen.get("engine") and seen["engine"] - seen["probes"] == seen["ledger"])

        seen = await until(figures, agree, seconds=PATIENCE_SECONDS)
        return f"engine {seen['engine']}, probes {seen['probes']}, ledger {seen['ledger']} tokens"

    async def abort(self) -> str:
        """A client that leaves ends the engine's work, and what it received is counted."""
        endpoint, count = await self._endpoint(), 0
        extra = {"ignore_eos": True, "min_tokens": LONG}
        stream = self._stream("Go on.", max_tokens=LONG, extra_body=extra)
        async for _ in stream:
            count += 1
            if count == ABORTED_AFTER:
                break
        assert await _running(endpoint) == 1, "it ended before it was aborted"
        await stream.aclose()
        left_at = time.monotonic()
        await until(lambda: _running(endpoint), lambda running: running == 0, seconds=ABORT_SECONDS)
        ended_s = time.monotonic() - left_at

        async def closed_rows() -> list[dict[str, Any]]:
            rows = (await self._suite.json("usage", "--by", "outcome"))["rows"]
            return [row for row in rows if row["outcome"] == "client_closed"]

        (row,) = await until(closed_rows, bool, seconds=PATIENCE_SECONDS)
        assert row["requests"] == 1
        assert ABORTED_AFTER - 1 <= row["completion_tokens"] < LONG
        return f"nothing runs {ended_s:.2f} s after the client left; {row['completion_tokens']} tokens counted"

    async def counters_after_abort(self) -> str:
        """The engine counts more than was delivered, and the audit knows why."""

        async def link() -> dict[str, Any]:
            return await self._engine_link()

        seen = await until(link, lambda current: bool(current["level"] != "wrong"), seconds=PATIENCE_SECONDS)
        return str(seen["text"])

    async def machine_check(self) -> str:
        await self._suite.json("hibernate", "vllm-1", "--wait", "--timeout", WAKE)
        report = await self._suite.json("check", "--machine", "vllm-1", "--key", self._client.api_key)
        assert report["faults"] == []
        phases = ", ".join(f"{phase['phase']} {phase['seconds']:.1f} s" for phase in report["phases"])
        return f"{phases}; token {report['token_seconds']:.2f} s; asleep after {report['sleep_seconds']:.1f} s"

    async def _stream(self, text: str, **options: Any) -> AsyncGenerator[ChatCompletionChunk, None]:
        chunks = await self._client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": text}], stream=True, **options
        )
        async with chunks:
            async for chunk in chunks:
                yield chunk

    async def _engine_link(self) -> dict[str, Any]:
        links = (await self._suite.json("doctor"))["links"]
        return next(link for link in links if link["link"] == "engine")

    async def _endpoint(self) -> str:
        return str((await self._suite.machines())["vllm-1"].endpoint)


async def _running(endpoint: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{endpoint}/metrics") as response:
        return parse(await response.text()).running
