"""One streamed chat completion, timed. The client's own work is in every figure, so it does as little as it can."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
import msgspec

from shared.http_body import read_limited
from shared.messages.codec import Decoder

MAX_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where requests go: an origin, and what the model is called there."""

    origin: str
    model: str
    key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shot:
    """How one request went; times by `time.perf_counter()`."""

    sent: float
    ended: float
    first: float | None = None
    """When the first token came."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fault: str | None = None
    status: int = 200


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct, frozen=True):
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: object = None


_decoder: Decoder[_Event] = Decoder(_Event)


class Events:
    """An event stream's `data` lines, out of whatever pieces it comes in."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """`ValueError` where a line has no end."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


async def fire(session: aiohttp.ClientSession, target: Target, prompt: str, tokens: int, *, ignore_eos: bool) -> Shot:
    """Never raises but when it is cancelled: what went wrong is the shot's fault."""
    body: dict[str, object] = {
        "model": target.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if ignore_eos:
        body["ignore_eos"] = True
    data = msgspec.json.encode(body)
    shot = await _shot(session, target, data)
    if shot is None:
        # An engine may close a kept connection after any answer; llama.cpp does so after each stream, unannounced.
        async with aiohttp.ClientSession(timeout=session.timeout, trust_env=False) as fresh:
            shot = await _shot(fresh, target, data)
    return shot or Shot(sent=0.0, ended=0.0, fault="a new connection was closed without an answer", status=0)


async def _shot(session: aiohttp.ClientSession, target: Target, data: bytes) -> Shot | None:
    """None: the connection was closed before an answer began."""
    headers = {"Content-Type": "application/json"}
    if target.key is not None:
        headers["Authorization"] = f"Bearer {target.key}"
    url = f"{target.origin}/v1/chat/completions"
    begun, sent = False, time.perf_counter()
    try:
        async with session.post(url, data=data, headers=headers, allow_redirects=False) as answer:
            begun = True
            if answer.status != 200:
                told = (await read_limited(answer, 2000)).decode(errors="replace")
                return Shot(sent=sent, ended=time.perf_counter(), fault=told, status=answer.status)
            return await _read(answer, sent)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        closed = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
        if closed and not begun and not isinstance(error, aiohttp.ClientConnectorError):
            return None
        fault = f"{type(error).__name__}: {error}".rstrip(": ")
        return Shot(sent=sent, ended=time.perf_counter(), fault=fault, status=0)


async def _read(answer: aiohttp.ClientResponse, sent: float) -> Shot:
    events, usage, counted = Events(), None, 0
    first, done = None, False
    async for piece in answer.content.iter_any():
        now = time.perf_counter()
        for data in events.feed(piece):
            if data == b"[DONE]":
                done = True
                continue
            event = _decoder.decode(data)
            if event.error is not None:
                return Shot(sent=sent, ended=now, first=first, fault=msgspec.json.encode(event.error).decode())
            usage = event.usage or usage
            if _says_something(event):
                counted += 1
                first = first or now
    ended = time.perf_counter()
    if not done:
        return Shot(sent=sent, ended=ended, first=first, fault="the stream ended before its end")
    if first is None:
        return Shot(sent=sent, ended=ended, fault="a stream without a token")
    usage = usage or _Usage(completion_tokens=counted)
    return Shot(
        sent=sent,
        ended=ended,
        first=first,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _says_something(event: _Event) -> bool:
    return any(c.delta.content or c.delta.reasoning_content or c.delta.reasoning for c in event.choices)
