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

from tests.kit import engine_dialect
from tests.kit.engine_dialect import Dialect
from tests.kit.engine_script import Script, ToolCall
from tests.kit.waiting import PATIENCE_SECONDS

__all__ = ["NAME", "Script", "ScriptedEngine", "Seen", "ToolCall", "scripted", "scripted_engine"]

Ending = Literal["completed", "left", "reset", "cut", "refused"]
PACE_SECONDS = 0.001
"""Between the writes of a script with a `write_size`, so that they arrive one by one."""
NAME = "scripted"
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
TYPES = {400: "BadRequestError", 404: "NotFoundError", 429: "RateLimitError", 503: "ServiceUnavailableError"}


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
        async with asyncio.timeout(PATIENCE_SECONDS):
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
        self.most_running = 0
        """At the same time."""
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
        async with asyncio.timeout(PATIENCE_SECONDS), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_routes([web.post(path, self._infer) for path in PATHS])
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
            self.most_running = max(self.most_running, self.running)
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
        if seen.path == "/v1/embeddings":
            seen.end("completed")
            return web.json_response(engine_dialect.embeddings(self.name, seen.body, script))
        dialect = engine_dialect.dialect(seen.path, self.name, seen.body, script)
        if seen.body.get("stream"):
            return await self._stream(request, seen, script, dialect)
        for part in dialect.parts:
            await asyncio.sleep(script.interval * part.token)
            seen.completion_tokens += part.token
        return await self._whole(request, seen, script, dialect)

    async def _whole(self, request: web.Request, seen: Seen, script: Script, dialect: Dialect) -> web.StreamResponse:
        body = json.dumps(dialect.whole(), ensure_ascii=False).encode()
        answer = web.StreamResponse(headers={"content-type": "application/json"})
        answer.content_length = len(body)
        await answer.prepare(request)
        if await _Writer(answer, script).write(body):
            seen.end("completed")
        else:
            self._broken(request, seen, script)
        return answer

    async def _stream(self, request: web.Request, seen: Seen, script: Script, dialect: Dialect) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        writer = _Writer(answer, script)
        for chunks, part in enumerate(dialect.parts):
            if chunks and not await self._goes_on(request, seen, script, chunks):
                return answer
            await asyncio.sleep(script.interval * part.token)
            seen.completion_tokens += part.token
            if not await writer.write(_event(dialect.event(part, seen.completion_tokens), script)):
                self._broken(request, seen, script)
                return answer
        if not await self._goes_on(request, seen, script, len(dialect.parts)):
            return answer
        for event in dialect.ending(seen.completion_tokens):
            await writer.write(_event(event, script))
        seen.end("completed")
        return answer

    def _broken(self, request: web.Request, seen: Seen, script: Script) -> None:
        """The script's last byte is written."""
        if script.reset_at is not None:
            _reset(request)
        seen.end("cut" if script.reset_at is None else "reset")

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


class _Writer:
    """Writes what it is given at once, or in pieces, and no more than the script lets out."""

    def __init__(self, answer: web.StreamResponse, script: Script) -> None:
        self._answer, self._size = answer, script.write_size
        self._left = script.cut_at if script.reset_at is None else script.reset_at

    async def write(self, data: bytes) -> bool:
        """False: the script breaks it off here."""
        goes = data[: self._left]
        if self._left is not None:
            self._left -= len(goes)
        size = self._size or max(1, len(goes))
        for start in range(0, len(goes), size):
            await self._answer.write(goes[start : start + size])
            await asyncio.sleep(PACE_SECONDS if self._size else 0)
        return goes == data


def _event(text: str, script: Script) -> bytes:
    return f"{text}\n\n".replace("\n", script.line_end).encode()


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
