"""An upstream that speaks vLLM's dialect and misbehaves as told, for faults that no real engine shows on demand.

It lives in the test's own event loop, counts exactly what it produced, and sees when a client leaves.
"""

import asyncio
import json
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from aiohttp import web

Ending = Literal["completed", "left", "reset", "cut", "refused"]
WAIT_SECONDS = 10.0
NAME = "scripted"
TYPES = {400: "BadRequestError", 404: "NotFoundError", 429: "RateLimitError", 503: "ServiceUnavailableError"}


@dataclass(frozen=True, kw_only=True)
class Script:
    """How one request is answered. Chunks are counted with the role chunk, which is the first."""

    tokens: int = 5
    prompt_tokens: int = 7
    cached_tokens: int = 0
    headers_after: float = 0.0
    """Seconds."""
    interval: float = 0.0
    """Seconds before each token."""
    hold_after: int | None = None
    """Wait for `release` after so many chunks; 0: before the headers."""
    reset_after: int | None = None
    """Reset the connection after so many chunks; 0: before the headers."""
    cut_after: int | None = None
    """End the answer cleanly after so many chunks, without what belongs to its end."""
    status: int = 200
    message: str = "as the script says"
    retry_after: str | None = None


@dataclass
class Seen:
    """One request as it went."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    raw: bytes
    body: dict[str, Any]
    peer: int
    """The client's port: equal for requests on one connection."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Written, whether or not anybody read them."""
    ending: Ending | None = None
    ended_at: float = 0.0
    """`time.monotonic()`."""
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, ending: Ending) -> None:
        self.ending, self.ended_at = ending, time.monotonic()
        self._ended.set()

    async def ended(self) -> Ending:
        async with asyncio.timeout(WAIT_SECONDS):
            await self._ended.wait()
        assert self.ending is not None
        return self.ending


class ScriptedEngine:
    """Answers the next requests by `scripts` in turn, then by `default`. Made by `scripted`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.base_url = ""
        self.default = Script()
        self.scripts: deque[Script] = deque()
        self.requests: list[Seen] = []
        self._released = asyncio.Event()
        self._arrived = asyncio.Condition()

    @property
    def prompt_tokens(self) -> int:
        return sum(seen.prompt_tokens for seen in self.requests)

    @property
    def completion_tokens(self) -> int:
        return sum(seen.completion_tokens for seen in self.requests)

    @property
    def running(self) -> int:
        return sum(seen.ending is None for seen in self.requests)

    def release(self) -> None:
        """Every answer that is held goes on, and none is held any more."""
        self._released.set()

    async def received(self, count: int) -> Seen:
        """The request of this number, from 1, once it is here whole."""
        async with asyncio.timeout(WAIT_SECONDS), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._infer)
        app.router.add_post("/v1/completions", self._infer)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name, "object": "model", "owned_by": "vllm"}]})

    async def _metrics(self, _request: web.Request) -> web.Response:
        label = f'{{engine="0",model_name="{self.name}"}}'
        return web.Response(
            text=f"vllm:prompt_tokens_total{label} {float(self.prompt_tokens)}\n"
            f"vllm:generation_tokens_total{label} {float(self.completion_tokens)}\n"
            f"vllm:num_requests_running{label} {float(self.running)}\n"
        )

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        assert request.transport is not None
        peer = request.transport.get_extra_info("peername")[1]
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(path=request.path, headers=headers, raw=raw, body=json.loads(raw), peer=peer)
        script = self.scripts.popleft() if self.scripts else self.default
        async with self._arrived:
            self.requests.append(seen)
            self._arrived.notify_all()
        try:
            return await self._answer(request, seen, script)
        except (asyncio.CancelledError, ConnectionError):
            # The handler is cancelled, or its write fails, when the client has gone.
            if seen.ending is None:
                seen.end("left")
            raise

    async def _answer(self, request: web.Request, seen: Seen, script: Script) -> web.StreamResponse:
        if refusal := self._refusal(seen, script):
            seen.end("refused")
            return refusal
        await asyncio.sleep(script.headers_after)
        seen.prompt_tokens = script.prompt_tokens
        if not await self._goes_on(request, seen, script, 0):
            return web.Response()  # nobody is there to read it
        wanted = seen.body.get("max_completion_tokens") or seen.body.get("max_tokens") or script.tokens
        tokens = min(script.tokens, wanted)
        dialect = _Dialect(self.name, seen, script, "stop" if tokens == script.tokens else "length")
        if seen.body.get("stream"):
            return await self._stream(request, seen, script, dialect, tokens)
        for _ in range(tokens):
            await asyncio.sleep(script.interval)
            seen.completion_tokens += 1
        seen.end("completed")
        return web.json_response(dialect.whole())

    async def _stream(
        self, request: web.Request, seen: Seen, script: Script, dialect: "_Dialect", tokens: int
    ) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        chunks = 0
        if dialect.chat:
            await answer.write(dialect.role())
            chunks = 1
        for number in range(1, tokens + 1):
            if chunks and not await self._goes_on(request, seen, script, chunks):
                return answer
            await asyncio.sleep(script.interval)
            seen.completion_tokens += 1
            await answer.write(dialect.token(last=number == tokens))
            chunks += 1
        if not await self._goes_on(request, seen, script, chunks):
            return answer
        if dialect.include_usage:
            await answer.write(dialect.usage_chunk())
        await answer.write(b"data: [DONE]\n\n")
        seen.end("completed")
        return answer

    async def _goes_on(self, request: web.Request, seen: Seen, script: Script, chunks: int) -> bool:
        """False: the script ends the answer here."""
        if script.hold_after == chunks:
            await self._released.wait()
        if script.reset_after == chunks:
            _reset(request)
            seen.end("reset")
            return False
        if script.cut_after == chunks:
            seen.end("cut")
            return False
        return True

    def _refusal(self, seen: Seen, script: Script) -> web.Response | None:
        model = seen.body.get("model")
        if script.status != 200:
            headers = {"retry-after": script.retry_after} if script.retry_after else None
            return _error(script.status, script.message, headers)
        if model != self.name:
            return _error(404, f"The model `{model}` does not exist.")
        if seen.body.get("stream_options") and not seen.body.get("stream"):
            return _error(400, "Stream options can only be defined when `stream=True`.")
        return None


class _Dialect:
    """vLLM's JSON for one request."""

    def __init__(self, model: str, seen: Seen, script: Script, finish: str) -> None:
        options = seen.body.get("stream_options") or {}
        self.chat = seen.path == "/v1/chat/completions"
        self.include_usage = bool(options.get("include_usage"))
        self._continuous = self.include_usage and bool(options.get("continuous_usage_stats"))
        self._seen, self._script, self._finish, self._model = seen, script, finish, model

    def role(self) -> bytes:
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return self._chunk([choice], self._continuous)

    def token(self, *, last: bool) -> bytes:
        finish = self._finish if last else None
        text = f" w{self._seen.completion_tokens}"
        body: dict[str, Any] = {"delta": {"content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **body, "logprobs": None, "finish_reason": finish, "stop_reason": None}
        return self._chunk([choice], self._continuous)

    def usage_chunk(self) -> bytes:
        return self._chunk([], with_usage=True)

    def whole(self) -> dict[str, Any]:
        text = "".join(f" w{n}" for n in range(1, self._seen.completion_tokens + 1))
        body: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **body, "logprobs": None, "finish_reason": self._finish, "stop_reason": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    def _chunk(self, choices: list[dict[str, Any]], with_usage: bool) -> bytes:
        chunk = {**self._head("chat.completion.chunk"), "choices": choices}
        if with_usage:
            chunk["usage"] = self._usage()
        return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n".encode()

    def _head(self, chat_object: str) -> dict[str, Any]:
        prefix, name = ("chatcmpl", chat_object) if self.chat else ("cmpl", "text_completion")
        return {"id": f"{prefix}-scripted", "object": name, "created": 1_790_000_000, "model": self._model}

    def _usage(self) -> dict[str, Any]:
        prompt, completion = self._script.prompt_tokens, self._seen.completion_tokens
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
        cached = self._script.cached_tokens
        return {**usage, "prompt_tokens_details": {"cached_tokens": cached}} if cached else usage


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    kind = TYPES.get(status, "InternalServerError")
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status, headers=headers)


def _reset(request: web.Request) -> None:
    """As a killed process leaves its clients: what is not sent is gone, and they get a reset."""
    assert request.transport is not None
    sock: socket.socket = request.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


@asynccontextmanager
async def scripted(name: str = NAME, *, port: int = 0, idle_seconds: float = 5.0) -> AsyncIterator[ScriptedEngine]:
    """A running one. `idle_seconds`: it closes kept connections after so long, as vLLM does."""
    engine = ScriptedEngine(name)
    runner = web.AppRunner(
        engine.application(), handler_cancellation=True, keepalive_timeout=idle_seconds, shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        engine.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield engine
    finally:
        await runner.cleanup()


@pytest.fixture
async def scripted_engine() -> AsyncIterator[ScriptedEngine]:
    async with scripted() as engine:
        yield engine
