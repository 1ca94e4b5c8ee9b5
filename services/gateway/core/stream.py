"""Reads an engine's event stream as it passes: what the client gets, and the running token count.

Bytes in, bytes out: complete events only, each as the engine wrote it except for usage that the client did not ask for.
An event waits for nothing but its own end.
"""

from dataclasses import dataclass, field

from services.gateway.core import sse
from services.gateway.core.chunk import Chunk, read_chunk
from services.gateway.core.chunk_shape import ChunkShape, shape_of
from services.gateway.core.endpoints import Endpoint
from services.gateway.core.engine_error import EngineError
from services.gateway.core.running_usage import RunningUsage
from services.gateway.core.sse import UnusableStream
from services.gateway.core.usage import TokenCount

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""A longer event is not going to end; this is what can be read without delaying all others."""
MAX_EVENTS = 8_192
"""Events in one read of at most 256 KB: tokens come as about a thousand events; more is a flood."""
MAX_LINES_APART = 1_024
"""Lines of one event that are read as events of their own, for engines that do not end theirs."""
_SHAPES_TRIED = 16
"""Shapes in a row that no chunk matched, after which no more are learned: the engine varies its chunks."""
_MAX_SHAPES = 256
"""Further choices are parsed chunk by chunk: a shape takes more memory than the rest of its choice."""


@dataclass(slots=True, kw_only=True)
class StreamReader:
    """One stream. `feed` takes what the engine sent and returns what the client gets; call `end` once it has closed."""

    wants_usage: bool
    """Whether the client asked for the usage at the end."""
    wants_running_usage: bool
    """Whether it also asked for the usage in every chunk; as in vLLM, this needs `wants_usage`."""
    endpoint: Endpoint
    """Where a stream reports its usage, how it ends, and whether it may have several prompts."""
    choices: int = 1
    """The choices of each prompt (`n`)."""
    several_prompts: bool = False
    """Whether more choices may follow than have appeared, so that only `[DONE]` ends the stream."""
    max_event_bytes: int = MAX_EVENT_BYTES
    """A larger event makes the stream unusable."""
    complete: bool = field(default=False, init=False)
    """Whether the stream has come to its regular end."""
    error: EngineError | None = field(default=None, init=False)
    """The first error that the engine reported."""
    _keeps_usage: bool = field(init=False)
    """Whether chunks keep their usage."""
    _running: RunningUsage = field(init=False)
    _rest: bytearray = field(default_factory=bytearray, init=False)
    _opening: bool = field(default=True, init=False)
    """Whether no event with data has come yet."""
    _is_json: bool = field(default=False, init=False)
    """Whether the body is not an event stream but one JSON object."""
    _shape: ChunkShape | None = field(default=None, init=False)
    _shapes: dict[bytes, ChunkShape] = field(default_factory=dict, init=False)
    """By the digits of a choice's index."""
    _shapes_left: int = field(default=_SHAPES_TRIED, init=False)
    _has_usage_at_end: bool = field(default=False, init=False)
    """Whether the client has been sent the usage at the end."""
    _last_with_usage: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        self._keeps_usage = self.wants_usage and self.wants_running_usage
        self._running = RunningUsage(self.choices, self.endpoint.accepts_prompt_list)

    @property
    def count(self) -> TokenCount:
        """The engine's last running total, or one completion token per delta, or nothing."""
        for index in self._shapes:
            self._catch_up(index)
        return self._running.count

    def feed(self, data: bytes) -> bytes:
        if not self._rest:
            out = self._cut(data)
            if out is not None:
                return out
            if not self._opening and sse.is_one_event(data):
                return self._event(data)
        return self._take_events(data)

    def _cut(self, event: bytes) -> bytes | None:
        """Return a chunk that matches a known shape without its usage, to be counted later; None for any other
        event."""
        shape = self._shape
        if shape is None:
            return None
        if len(self._shapes) > 1:
            shape = self._shapes.get(event[shape.index_at : event.find(b",", shape.index_at)], shape)
        quote = event.find(b'"', shape.text_at)
        if (
            event.startswith(shape.until_numbers, quote)
            and event.startswith(shape.head)
            and event.find(b"}", quote + shape.numbers_at) == len(event) - shape.end_bytes
            and event.endswith(shape.end)
        ):
            shape.chunk = event
            return event if self._keeps_usage else event[: quote + shape.usage_at] + b"}\n\n"
        return None

    def end(self) -> bytes:
        """Return what is left after the engine has closed in order. An unterminated rest is the last event, if it is
        complete.

        A stream in which every choice has finished is complete without `[DONE]`, which is added, unless it has several
        prompts. A stream that reported an error is complete, too.
        """
        rest = bytes(self._rest).strip()
        self._rest.clear()
        out = b""
        if self._is_json or (self._opening and sse.begins_json(rest)):
            event = sse.make_event(rest.removeprefix(sse.BOM))
            out = self._event(event) if self._is_readable(event) else b""
        elif rest and self._is_readable(rest):
            out = self._event(rest + b"\n\n")
        if self.complete or not (self.error is not None or self._ends_with_choices):
            return out
        self.complete = True
        return out if self.error is not None else out + self._usage_at_end() + b"data: [DONE]\n\n"

    @property
    def _ends_with_choices(self) -> bool:
        """Whether the stream is complete without `[DONE]`."""
        may_have_more = self.several_prompts and self.endpoint.accepts_prompt_list
        return self.endpoint.ends_with_done and not may_have_more and self._running.finished

    def _take_events(self, data: bytes) -> bytes:
        rest, scanned = self._rest, len(self._rest)
        rest += data
        ends = [] if self._is_json else sse.find_ends(rest, scanned)
        if len(ends) > MAX_EVENTS:
            raise UnusableStream("a flood of events")
        out: list[bytes] = []
        events = sse.split_events(rest, ends) if ends else []
        del rest[: ends[-1] if ends else 0]
        for number, event in enumerate(events):
            if self._opening and sse.begins_json(event):
                self._is_json = True
                rest[:0] = b"".join(events[number:])
                break
            cut = self._cut(event)
            out.append(self._event(event) if cut is None else cut)
        if len(rest) > self.max_event_bytes:
            raise UnusableStream("an event without an end")
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        lines = sse.data_lines(event)
        if not lines:
            return event
        self._opening = False
        data = lines[0] if len(lines) == 1 else b"\n".join(lines)
        if data.strip() == sse.DONE:
            self.complete = True
            return self._usage_at_end() + event
        chunk = read_chunk(data)
        if chunk is not None:
            return self._chunk(event, chunk)
        if len(lines) > 1 and any(read_chunk(line) for line in lines[:MAX_LINES_APART]):
            if len(lines) > MAX_LINES_APART:
                raise UnusableStream("a flood of events in one")
            return b"".join(self._event(sse.make_event(line)) for line in lines)  # the engine does not end its events
        return event  # not valid JSON: the client gets it unchanged

    def _is_readable(self, event: bytes) -> bool:
        lines = sse.data_lines(event)
        return bool(lines) and ((data := b"\n".join(lines)).strip() == sse.DONE or read_chunk(data) is not None)

    def _chunk(self, event: bytes, chunk: Chunk) -> bytes:
        self.error = self.error or chunk.error
        for choice in chunk.choices if self._shapes else ():
            self._catch_up(b"%d" % choice.number)
        if chunk.is_named:
            self._running.add_named(chunk)
        if not self.endpoint.ends_with_done:
            self.complete = self.complete or chunk.ends_response
            return event  # its usage is part of the response
        own = self._running.add(chunk)
        if not chunk.has_usage:
            return event
        if chunk.is_usage_alone:
            self._has_usage_at_end = True
            return event if self.wants_usage else b""
        if chunk.usage != b"null":
            self._last_with_usage = event
        if own is not None and self._shapes_left and b"\\" not in event:
            self._learn(b"%d" % own, event, chunk)
        if self._keeps_usage or (self.wants_usage and chunk.usage == b"null"):
            return event
        without = chunk.without_usage
        if without is None:
            raise UnusableStream("an event that is too large to take its usage out")
        return sse.with_data(event, chunk.data, without)

    def _learn(self, index: bytes, event: bytes, chunk: Chunk) -> None:
        """Remember the shape of this choice's chunks."""
        if index in self._shapes or len(self._shapes) < _MAX_SHAPES:
            self._shapes_left -= 1
            if shape := shape_of(event, chunk):
                self._shape = self._shapes[index] = shape

    def _catch_up(self, index: bytes) -> None:
        """Count what of this choice went the short way."""
        shape = self._shapes.get(index)
        if shape is not None and shape.chunk:
            self._shapes_left = _SHAPES_TRIED
            self._running.report_completion(int(index), shape.completion)
            self._last_with_usage, shape.chunk = shape.chunk, b""

    def _usage_at_end(self) -> bytes:
        """Return the usage for a client that asked for it: some engines put it beside the last choice instead."""
        if not self.wants_usage or self._keeps_usage or self._has_usage_at_end:
            return b""
        count = self.count
        chunk = read_chunk(b"\n".join(sse.data_lines(self._last_with_usage))) if self._last_with_usage else None
        if chunk is None:
            return b""
        self._has_usage_at_end = True
        return sse.make_event(chunk.with_usage_alone(_usage_object(count) if self._running.several else chunk.usage))


def _usage_object(count: TokenCount) -> bytes:
    """Return the count as the `usage` object that engines write."""
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
        count.prompt,
        count.completion,
        count.prompt + count.completion,
    )
