"""Sends a streamed chat completion and times it. The client's own work is part of every figure, so it does little."""

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
    """Where requests go: an origin, and the model's name there."""

    origin: str
    model: str
    key: str | None = None


@dataclass(frozen=True, kw_only=True)
class TimedRequest:
    """The timing and the result of a request. Times are those of `time.perf_counter()`."""

    sent: float
    ended: float
    first: float | None = None
    """When the first token arrived."""
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


class EventStream:
    """Splits an event stream, received in arbitrary pieces, into its `data` lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the data of complete lines. Raises `ValueError` if a line is too long."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


async def send_request(
    session: aiohttp.ClientSession, target: Target, prompt: str, tokens: int, *, ignore_eos: bool
) -> TimedRequest:
    """Send one request. Never raises, except when cancelled: an error becomes the result's `fault`."""
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
    shot = await _send(session, target, data)
    if shot is None:
        # An engine may close a kept connection after any answer; llama.cpp does so after each stream, unannounced.
        async with aiohttp.ClientSession(timeout=session.timeout, trust_env=False) as fresh:
            shot = await _send(fresh, target, data)
    return shot or TimedRequest(sent=0.0, ended=0.0, fault="a new connection was closed without a response", status=0)


async def _send(session: aiohttp.ClientSession, target: Target, data: bytes) -> TimedRequest | None:
    """Return None if the connection was closed before a response began."""
    headers = {"Content-Type": "application/json"}
    if target.key is not None:
        headers["Authorization"] = f"Bearer {target.key}"
    url = f"{target.origin}/v1/chat/completions"
    has_response, sent = False, time.perf_counter()
    try:
        async with session.post(url, data=data, headers=headers, allow_redirects=False) as response:
            has_response = True
            if response.status != 200:
                body_text = (await read_limited(response, 2000)).decode(errors="replace")
                return TimedRequest(sent=sent, ended=time.perf_counter(), fault=body_text, status=response.status)
            return await _read(response, sent)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        closed = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
        if closed and not has_response and not isinstance(error, aiohttp.ClientConnectorError):
            return None
        fault = f"{type(error).__name__}: {error}".rstrip(": ")
        return TimedRequest(sent=sent, ended=time.perf_counter(), fault=fault, status=0)


async def _read(response: aiohttp.ClientResponse, sent: float) -> TimedRequest:
    events, usage, counted = EventStream(), None, 0
    first, done = None, False
    async for piece in response.content.iter_any():
        now = time.perf_counter()
        for data in events.feed(piece):
            if data == b"[DONE]":
                done = True
                continue
            event = _decoder.decode(data)
            if event.error is not None:
                return TimedRequest(sent=sent, ended=now, first=first, fault=msgspec.json.encode(event.error).decode())
            usage = event.usage or usage
            if _has_token(event):
                counted += 1
                first = first or now
    ended = time.perf_counter()
    if not done:
        return TimedRequest(sent=sent, ended=ended, first=first, fault="the stream ended without `[DONE]`")
    if first is None:
        return TimedRequest(sent=sent, ended=ended, fault="the stream had no tokens")
    usage = usage or _Usage(completion_tokens=counted)
    return TimedRequest(
        sent=sent,
        ended=ended,
        first=first,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _has_token(event: _Event) -> bool:
    return any(c.delta.content or c.delta.reasoning_content or c.delta.reasoning for c in event.choices)
