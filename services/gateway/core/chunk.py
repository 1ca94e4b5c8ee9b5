"""The parts of one stream event's JSON that the gateway reads."""

import re
from collections.abc import Sequence

import msgspec

from services.gateway.core.engine_error import EngineError, read_error
from services.gateway.core.raw_values import ABSENT, decode_or, is_empty
from services.gateway.core.sse import UnusableStream
from services.gateway.core.usage import NO_BODY, Body, body_decoder, read_number
from shared.messages.codec import Decoder, Unreadable

LARGE = 256 * 1024
"""Bytes. Of a larger event only the first choice is read, and no object is made of each of its parts."""
MAX_CHOICES = 1_024
"""Choices read from one event: more than any engine puts into one."""

# Some engines write these for numbers that JSON does not have. Within strings they are text.
_NO_NUMBERS = re.compile(rb'("(?:[^"\\]++|\\.)*+")|-?\b(?:NaN|Infinity)\b', re.DOTALL)
_RESPONSE_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


class _Delta(msgspec.Struct):
    content: msgspec.Raw = ABSENT
    reasoning_content: msgspec.Raw = ABSENT
    reasoning: msgspec.Raw = ABSENT
    tool_calls: msgspec.Raw = ABSENT
    function_call: msgspec.Raw = ABSENT
    refusal: msgspec.Raw = ABSENT
    audio: msgspec.Raw = ABSENT


class Choice(msgspec.Struct):
    """One of a chunk's choices."""

    index: msgspec.Raw = ABSENT
    delta: msgspec.Raw = ABSENT
    text: msgspec.Raw = ABSENT
    message: msgspec.Raw = ABSENT
    """Only in a response that is not streamed."""
    finish_reason: msgspec.Raw = ABSENT

    @property
    def number(self) -> int:
        """The choice's index; 0 if it has none."""
        return read_number(self.index) or 0

    @property
    def finished(self) -> bool:
        return not is_empty(self.finish_reason)

    @property
    def has_content(self) -> bool:
        """Whether it carries a piece of the response, whatever its type."""
        if not (is_empty(self.text) and is_empty(self.message)):
            return True
        if is_empty(self.delta):
            return False
        pieces = decode_or(None, _delta, self.delta)  # None: not an object, but not empty
        return pieces is None or not all(map(is_empty, msgspec.structs.astuple(pieces)))


class _Fields(Body):
    choices: msgspec.Raw = ABSENT
    type: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT


class _FirstChoice(msgspec.Struct, array_like=True):
    first: Choice | None = None


_fields: Decoder[_Fields] = Decoder(_Fields)
_choices: Decoder[list[Choice]] = Decoder(list[Choice])
_first_choice: Decoder[_FirstChoice] = Decoder(_FirstChoice)
_delta: Decoder[_Delta] = Decoder(_Delta)
_text: Decoder[str] = Decoder(str)
_members: Decoder[dict[str, msgspec.Raw]] = Decoder(dict[str, msgspec.Raw])
_NO_FIRST = _FirstChoice(Choice())


class Chunk:
    """The content of one event."""

    __slots__ = ("_fields", "choices", "data", "error", "has_choices", "name", "response_usage")

    def __init__(self, data: bytes, fields: _Fields) -> None:
        self.data = data
        """A JSON object."""
        self._fields = fields
        self.has_choices = not is_empty(fields.choices)
        self.choices: Sequence[Choice] = _read_choices(fields.choices) if self.has_choices else ()
        self.name = decode_or("", _text, fields.type)
        """The event's type; only `/v1/responses` has one."""
        self.error: EngineError | None = read_error(fields.error)
        self.response_usage = ABSENT
        if bytes(fields.object) == b'"error"' or self.name == "error":
            self.error = self.error or read_error(data)
        if not is_empty(fields.response):
            response = decode_or(NO_BODY, body_decoder, fields.response)
            self.response_usage = response.usage
            self.error = self.error or read_error(response.error)
        if self.name == "response.failed":
            self.error = self.error or EngineError(refused=False)

    @property
    def usage(self) -> bytes:
        return bytes(self._fields.usage)

    @property
    def has_usage(self) -> bool:
        """Whether the member is present, even if null."""
        return self.usage != b""

    @property
    def is_usage_alone(self) -> bool:
        """Whether this is the event that `include_usage` asks for: the total usage and no choice."""
        return not is_empty(self._fields.usage) and not self.has_choices and not self.name and self.error is None

    @property
    def is_named(self) -> bool:
        """Whether this is an event of `/v1/responses`."""
        return not self.has_choices and (bool(self.name) or not is_empty(self._fields.response))

    @property
    def ends_response(self) -> bool:
        """Whether this is the last event of `/v1/responses`, which carries the usage if the engine reports it."""
        return self.name in _RESPONSE_ENDS or not is_empty(self.response_usage)

    @property
    def without_usage(self) -> bytes | None:
        """The JSON without the member `usage`, however it is escaped; None if the event is too large to search."""
        data = self.data.rstrip()
        before, _, after = data.rpartition(b',"usage":')
        if len(after) <= LARGE and b'"usage"' not in before and b"\\u00" not in before:
            # The rest after a comma belongs to the outermost object if it parses as an object with a brace for the
            # comma.
            last = decode_or({}, _members, b'{"usage":' + after)
            if before and list(last) == ["usage"]:
                return before + b"}"
        if len(data) > LARGE:
            return None
        members = _members.decode(data)
        members.pop("usage", None)
        return _object_of(members)

    def with_usage_alone(self, usage: bytes) -> bytes:
        """Return the JSON of an `include_usage` event that goes with this one."""
        members = _members.decode(self.data) | {"choices": msgspec.Raw(b"[]"), "usage": msgspec.Raw(usage)}
        return _object_of(members)


def read_chunk(data: bytes) -> Chunk | None:
    """Read an event's data; None if it is not a JSON object.

    Raises:
        UnusableStream: it is nested too deeply to tell.
    """
    try:
        return Chunk(data, _fields.decode(data))
    except Unreadable as error:
        if isinstance(error.__cause__, RecursionError):
            raise UnusableStream("an event that is nested too deeply") from None
    if len(data) <= LARGE and (b"NaN" in data or b"Infinity" in data):
        numbered = _NO_NUMBERS.sub(lambda match: match[1] or b"null", data)
        return read_chunk(numbered) if numbered != data else None
    return None


def _object_of(members: dict[str, msgspec.Raw]) -> bytes:
    """Return the object on one line: in JSON, line breaks only stand between tokens."""
    parts = (msgspec.json.encode(name) + b":" + bytes(value) for name, value in members.items())
    return (b"{" + b",".join(parts) + b"}").replace(b"\n", b" ").replace(b"\r", b" ")


def _read_choices(raw: msgspec.Raw) -> Sequence[Choice]:
    """Return at least one choice, even an empty one: the event has choices, whatever they are."""
    if len(raw) > LARGE:
        return (decode_or(_NO_FIRST, _first_choice, raw).first or Choice(),)
    return decode_or([], _choices, raw)[:MAX_CHOICES] or (Choice(),)
