"""Reads an engine's event stream as it passes: what goes on to the client, and the running count of tokens.

Bytes in, bytes out; whole events only, each as the engine wrote it except for usage that the client did not ask
for. An event waits for nothing but its own end.
"""

import re

import msgspec

from services.gateway.core.usage import Count, EngineUsage, count

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""An event that has not ended by then never will: as much as a whole body may have."""

_END = re.compile(rb"\r?\n\r?\n")
_DATA = re.compile(rb"^data:[ ]?", re.MULTILINE)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    refusal: str | None = None

    @property
    def says_something(self) -> bool:
        return bool(self.content or self.reasoning_content or self.reasoning or self.tool_calls or self.refusal)


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None


class _Response(msgspec.Struct):
    usage: EngineUsage | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: EngineUsage | None = None
    response: _Response | None = None
    """Where `/v1/responses` has it, in `response.completed`."""


_chunk = msgspec.json.Decoder(_Chunk)


class EventTooLarge(Exception):
    """The engine sends something that is no event stream."""


class StreamReader:
    """One stream. `feed` takes what came from the engine and returns what goes to the client."""

    def __init__(self, *, wants_usage: bool, wants_running_usage: bool, ends_with_done: bool) -> None:
        self._wants_usage = wants_usage
        self._wants_running_usage = wants_running_usage
        self._ends_with_done = ends_with_done
        self._rest = b""
        self._deltas = 0
        self._said: Count | None = None
        self._done = False
        self._finished_response = False
        self._withheld: bytes | None = None

    @property
    def complete(self) -> bool:
        """The engine said all that it had to say."""
        return self._done if self._ends_with_done else self._done or self._finished_response

    @property
    def count(self) -> Count:
        """The engine's last running total, else one completion token per delta, else nothing."""
        if self._said is not None:
            return self._said
        return Count(completion=self._deltas, basis="counted") if self._deltas else Count()

    def feed(self, data: bytes) -> bytes:
        self._rest += data
        out: list[bytes] = []
        start = 0
        for end in _END.finditer(self._rest):
            event = self._rest[start : end.end()]
            start = end.end()
            out.append(self._event(event))
        self._rest = self._rest[start:]
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge
        return b"".join(out)

    def end(self) -> bytes:
        """What is left when the engine has closed: an unended last event, which some engines send."""
        rest, self._rest = self._rest, b""
        return self._event(rest) if rest.strip() else b""

    def _event(self, event: bytes) -> bytes:
        found = _DATA.search(event)
        if found is None:
            return event
        data = event[found.end() :].strip()
        if data == b"[DONE]":
            self._done = True
            return self._usage_chunk() + event
        try:
            chunk = _chunk.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return event  # not ours to judge: the client sees what the engine said
        return self._chunk(event, found.end(), data, chunk)

    def _usage_chunk(self) -> bytes:
        """For a client that asked: some engines put the final usage beside the last choice instead."""
        withheld, self._withheld = self._withheld, None
        return b"data: " + withheld + b"\n\n" if withheld else b""

    def _chunk(self, event: bytes, data_at: int, data: bytes, chunk: _Chunk) -> bytes:
        if chunk.response is not None and chunk.response.usage is not None:
            self._said = count(chunk.response.usage)
            self._finished_response = True
            return event
        for choice in chunk.choices or ():
            if (choice.delta is not None and choice.delta.says_something) or choice.text:
                self._deltas += 1
        if chunk.usage is None:
            return event
        self._said = count(chunk.usage)
        if not chunk.choices:
            self._withheld = None
            return event if self._wants_usage else b""
        if self._wants_running_usage:
            return event
        members = _members.decode(data)
        if self._wants_usage:
            self._withheld = _joined(members | {"choices": msgspec.Raw(b"[]")})
        members.pop("usage", None)
        return event[:data_at] + _joined(members) + b"\n\n"


def _joined(members: dict[str, msgspec.Raw]) -> bytes:
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + bytes(value) for name, value in members.items()) + b"}"
