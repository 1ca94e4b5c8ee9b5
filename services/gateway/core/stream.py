"""Reads an engine's event stream as it passes: what goes on to the client, and the running count of tokens.

Bytes in, bytes out; whole events only, each as the engine wrote it except for usage that the client did not ask
for. An event waits for nothing but its own end.

vLLM's usual piece is one event whose last member is `usage`: it is cut off without parsing anything, and read only when
somebody asks for the count. Whatever looks different takes the long way.
"""

import re
from contextlib import suppress
from itertools import pairwise

import msgspec

from services.gateway.core.usage import NOTHING, Count, EngineUsage, count

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""An event that has not ended by then never will: as much as a whole body may have."""

_END = re.compile(rb"\r?\n\r?\n")
_LONGEST_END = 4
_DATA = re.compile(rb"^data:[ \t]*", re.MULTILINE)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_usage = msgspec.json.Decoder(EngineUsage)

_LAST_NAMES = frozenset({"response.completed", "response.incomplete", "response.failed"})
_USAGE = b',"usage":{'
_NO_CHOICES = b'"choices":[]'


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
    """Where `/v1/responses` has it, in its last event."""
    type: object = None
    """The event's name in `/v1/responses`."""


_chunk = msgspec.json.Decoder(_Chunk)


class EventTooLarge(Exception):
    """The engine sends something that is no event stream."""


class StreamReader:
    """One stream. `feed` takes what came from the engine and returns what goes to the client."""

    __slots__ = (
        "_deltas",
        "_ends_with_done",
        "_last_with_usage",
        "_rest",
        "_said",
        "_told_usage",
        "_unread",
        "_wants_running_usage",
        "_wants_usage",
        "complete",
    )

    def __init__(self, *, wants_usage: bool, wants_running_usage: bool, ends_with_done: bool) -> None:
        self._wants_usage = wants_usage
        self._wants_running_usage = wants_usage and wants_running_usage  # as vLLM reads it
        self._ends_with_done = ends_with_done
        self._rest = bytearray()
        self._deltas = 0
        self._said: EngineUsage | None = None
        self._unread = b""
        """A later event than what `_said` is from, its usage not read yet."""
        self._told_usage = False
        self._last_with_usage = b""
        self.complete = False
        """The engine said all that it had to say."""

    @property
    def count(self) -> Count:
        """The engine's last running total, else one completion token per delta, else nothing."""
        self._read()
        if self._said is not None:
            return count(self._said)
        return Count(completion=self._deltas, basis="counted") if self._deltas else NOTHING

    def feed(self, data: bytes) -> bytes:
        at = data.rfind(_USAGE)
        if at > 0 and not self._rest and not self._wants_running_usage and _ends_flat(data, at):
            return self._cut(data, at)
        scanned = max(0, len(self._rest) - _LONGEST_END + 1)
        self._rest += data
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge
        ends = [end.end() for end in _END.finditer(self._rest, scanned)]
        events = [bytes(self._rest[start:end]) for start, end in pairwise([0, *ends])]
        if ends:
            del self._rest[: ends[-1]]
        return b"".join(map(self._event, events))

    def end(self) -> bytes:
        """What is left when the engine has closed: an unended last event, which some engines send.

        One that broke off is left out: what is told next would become part of it.
        """
        rest = bytes(self._rest).rstrip()
        self._rest.clear()
        found = _DATA.search(rest)
        whole = found is not None and _is_whole(rest[found.end() :])
        return self._event(rest + b"\n\n") if whole else b""

    def _cut(self, data: bytes, at: int) -> bytes:
        """One whole event without its `usage`, which begins there."""
        self._unread = data
        if data.endswith(_NO_CHOICES, 0, at):
            self._told_usage = True
            return data if self._wants_usage else b""
        self._last_with_usage = data
        return data[:at] + b"}\n\n"

    def _read(self) -> None:
        """What the last event says that went the short way. No usage that can be read is no news."""
        data, self._unread = self._unread, b""
        if data:
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                self._said = _usage.decode(data[data.rfind(_USAGE) + len(_USAGE) - 1 : -3])

    def _event(self, event: bytes) -> bytes:
        found = _DATA.search(event)
        if found is None:
            return event
        data = event[found.end() :].rstrip()
        if data == b"[DONE]":
            self.complete = True
            return self._usage_chunk() + event
        try:
            chunk = _chunk.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return event  # not ours to judge: the client sees what the engine said
        return self._chunk(event, found.end(), data, chunk)

    def _named(self, name: object, response: _Response | None) -> None:
        """An event of `/v1/responses`. The last one carries the usage, where the engine tells it."""
        usage = response.usage if response is not None else None
        if usage is not None or name in _LAST_NAMES:
            self._said = usage or self._said
            self.complete = self.complete or not self._ends_with_done
        elif isinstance(name, str) and name.endswith(".delta"):
            self._deltas += 1

    def _usage_chunk(self) -> bytes:
        """For a client that asked: some engines put the final usage beside the last choice instead."""
        if not self._wants_usage or self._told_usage or not self._last_with_usage:
            return b""
        found = _DATA.search(self._last_with_usage)
        assert found is not None, "it was read as an event with data"
        members = _members.decode(self._last_with_usage[found.end() :].strip())
        return b"data: " + _joined(members | {"choices": msgspec.Raw(b"[]")}) + b"\n\n"

    def _chunk(self, event: bytes, data_at: int, data: bytes, chunk: _Chunk) -> bytes:
        if chunk.choices is None and (chunk.type is not None or chunk.response is not None):
            self._named(chunk.type, chunk.response)
            return event
        for choice in chunk.choices or ():
            if (choice.delta is not None and choice.delta.says_something) or choice.text:
                self._deltas += 1
        if chunk.usage is None:
            return event
        self._said, self._unread = chunk.usage, b""
        if not chunk.choices:
            self._told_usage = True
            return event if self._wants_usage else b""
        if self._wants_running_usage:
            return event
        self._last_with_usage = event
        members = _members.decode(data)
        members.pop("usage", None)
        return event[:data_at] + _joined(members) + event[data_at + len(data) :]


def _ends_flat(data: bytes, at: int) -> bool:
    """Whether this is one event whose last member is the `usage` that begins there, an object without another inside.

    An unescaped `,"usage":{` can only be a member's name. Where the next brace that closes is the last but one of the
    event, that member is the outermost object's last.
    """
    return (
        data.find(b"}", at) == len(data) - 4
        and data.endswith(b"}}\n\n")
        and data.find(b"\n") == len(data) - 2
        and data.startswith(b"data: {")
    )


def _is_whole(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data == b"[DONE]"
    return True


def _joined(members: dict[str, msgspec.Raw]) -> bytes:
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + bytes(value) for name, value in members.items()) + b"}"
