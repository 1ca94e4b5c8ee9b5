"""One event's JSON as far as the gateway reads it, whatever it is."""

import re
from collections.abc import Sequence

import msgspec

from services.gateway.core.engine_error import EngineError, read_error
from services.gateway.core.usage import ABSENT, number
from shared.messages.codec import Decoder, Unreadable

LARGE = 256 * 1024
"""Bytes of an event from which on only its first choice is read, and no object is made of each part of it."""
MAX_CHOICES = 1_024
"""Of one event that are read: more than an engine puts into one."""

_EMPTY = frozenset({b"", b"null", b'""', b"[]", b"{}"})
_EMPTY_BYTES = 4
"""The longest of them."""
# What some engines write for numbers that JSON does not have. Within strings it is text.
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
    """Of a whole response."""
    finish_reason: msgspec.Raw = ABSENT

    @property
    def number(self) -> int:
        """Its index; the first where it does not say."""
        return number(self.index) or 0

    @property
    def finished(self) -> bool:
        return not _is_empty(self.finish_reason)

    @property
    def says_something(self) -> bool:
        """Whether it has a piece of the answer, whatever its type."""
        if not (_is_empty(self.text) and _is_empty(self.message)):
            return True
        if _is_empty(self.delta):
            return False
        try:
            pieces = _delta.decode(memoryview(self.delta))
        except Unreadable:
            return True  # no object, but not nothing
        return not (
            _is_empty(pieces.content)
            and _is_empty(pieces.reasoning_content)
            and _is_empty(pieces.reasoning)
            and _is_empty(pieces.tool_calls)
            and _is_empty(pieces.function_call)
            and _is_empty(pieces.refusal)
            and _is_empty(pieces.audio)
        )


class _Named(msgspec.Struct):
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


class _Fields(msgspec.Struct):
    choices: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    object: msgspec.Raw = ABSENT
    type: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT


class _FirstChoice(msgspec.Struct, array_like=True):
    first: Choice | None = None


_fields: Decoder[_Fields] = Decoder(_Fields)
_choices: Decoder[list[Choice]] = Decoder(list[Choice])
_first_choice: Decoder[_FirstChoice] = Decoder(_FirstChoice)
_delta: Decoder[_Delta] = Decoder(_Delta)
_named: Decoder[_Named] = Decoder(_Named)
_text: Decoder[str] = Decoder(str)
_members: Decoder[dict[str, msgspec.Raw]] = Decoder(dict[str, msgspec.Raw])


class TooDeep(Exception):
    """The JSON is nested more deeply than it can be read."""


class Chunk:
    """What one event says."""

    __slots__ = ("_fields", "choices", "data", "error", "has_choices", "name", "response_usage")

    def __init__(self, data: bytes, fields: _Fields) -> None:
        self.data = data
        """JSON, an object."""
        self._fields = fields
        self.has_choices = not _is_empty(fields.choices)
        self.choices: Sequence[Choice] = _read_choices(fields.choices) if self.has_choices else ()
        self.name = _read_text(fields.type)
        """The event's name in `/v1/responses`."""
        self.error: EngineError | None = read_error(fields.error)
        self.response_usage = ABSENT
        if bytes(fields.object) == b'"error"' or self.name == "error":
            self.error = self.error or read_error(data)
        if not _is_empty(fields.response):
            response = _read_named(fields.response)
            self.response_usage = response.usage
            self.error = self.error or read_error(response.error)
        if self.name == "response.failed":
            self.error = self.error or EngineError(refused=False)

    @property
    def usage(self) -> bytes:
        return bytes(self._fields.usage)

    @property
    def has_usage(self) -> bool:
        """Whether it has the member, were it null."""
        return self.usage != b""

    @property
    def is_usage_alone(self) -> bool:
        """The event that engines send for `include_usage`, with all the tokens and no choice."""
        return not _is_empty(self._fields.usage) and not self.has_choices and not self.name and self.error is None

    @property
    def is_named(self) -> bool:
        """Whether this is an event of `/v1/responses`."""
        return not self.has_choices and (bool(self.name) or not _is_empty(self._fields.response))

    @property
    def ends_response(self) -> bool:
        """Whether it is the last event of `/v1/responses`, which has the usage where the engine tells it."""
        return self.name in _RESPONSE_ENDS or not _is_empty(self.response_usage)

    @property
    def without_usage(self) -> bytes:
        """Its JSON without the member `usage`, however that is spelt."""
        members = _members.decode(self.data)
        members.pop("usage", None)
        return _object_of(members)

    @property
    def cut_usage(self) -> bytes | None:
        """The same without making anything of the rest; None where its usage is not plainly its last member."""
        data = self.data.rstrip()
        at = data.rfind(b',"usage":')
        if at < 0 or b'"usage"' in data[:at] or len(data) - at > LARGE:
            return None
        try:
            # A rest that is an object once its comma is a brace is the outermost object's.
            last = list(_members.decode(b"{" + data[at + 1 :]))
        except Unreadable:
            return None
        return data[:at] + b"}" if last == ["usage"] else None

    def with_usage_alone(self, usage: bytes) -> bytes:
        """The JSON of an event for `include_usage` beside this one."""
        members = _members.decode(self.data) | {"choices": msgspec.Raw(b"[]"), "usage": msgspec.Raw(usage)}
        return _object_of(members)


def read_chunk(data: bytes) -> Chunk | None:
    """Read the data of an event; None: they are no JSON object.

    Raises:
        TooDeep: they may be one.
    """
    try:
        return Chunk(data, _fields.decode(data))
    except Unreadable as error:
        if isinstance(error.__cause__, RecursionError):
            raise TooDeep from None
    if len(data) <= LARGE and (b"NaN" in data or b"Infinity" in data):
        numbered = _NO_NUMBERS.sub(lambda match: match[1] or b"null", data)
        return read_chunk(numbered) if numbered != data else None
    return None


def _object_of(members: dict[str, msgspec.Raw]) -> bytes:
    """The object on one line: line breaks can only stand between the tokens of a value."""
    parts = (msgspec.json.encode(name) + b":" + bytes(value) for name, value in members.items())
    return (b"{" + b",".join(parts) + b"}").replace(b"\n", b" ").replace(b"\r", b" ")


def _is_empty(raw: msgspec.Raw) -> bool:
    """Whether there is nothing, or a value of nothing."""
    view = memoryview(raw)
    return view.nbytes <= _EMPTY_BYTES and view.tobytes() in _EMPTY


def _read_choices(raw: msgspec.Raw) -> Sequence[Choice]:
    """At least one, were it empty: there are choices, whatever they are."""
    try:
        view = memoryview(raw)
        if view.nbytes <= LARGE:
            return _choices.decode(view)[:MAX_CHOICES] or (Choice(),)
        return (_first_choice.decode(view).first or Choice(),)
    except Unreadable:
        return (Choice(),)


def _read_named(raw: msgspec.Raw) -> _Named:
    try:
        return _named.decode(memoryview(raw))
    except Unreadable:
        return _Named()


def _read_text(raw: msgspec.Raw) -> str:
    try:
        return _text.decode(bytes(raw)) if raw else ""
    except Unreadable:
        return ""
