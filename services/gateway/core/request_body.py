"""What routing needs of a request's body, and the body that goes to the engine.

The body travels byte for byte except for what must change: the model's served name and the stream options. Both are put
in where they stand, as pieces between views of the body: nothing else is read, copied, or written anew.

Values are never looked into. msgspec skips them at about 1 GB/s without making an object of them; what is left for
Python is the outermost object's members, whose number is bounded.
"""

import codecs
import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from services.gateway.core.body_values import are_several, whole_number
from services.gateway.core.errors import ApiError, invalid_json, invalid_request
from shared.messages.codec import Decoder, Unreadable

LARGE_BYTES = 1024 * 1024
"""A larger body is parsed in steps, with other work in between."""
UTF8_STEP_BYTES = 8 * 1024 * 1024
"""Validated in one step, 8 ms."""
MAX_SEPARATORS = 6_000_000
"""Commas and opening brackets in one body: what the decoder is slow at, at most 40 ms for so many.

A prompt of token ids that fills 32 MB has fewer."""
MAX_MEMBERS = 1_000
"""Of the outermost object: an API has less than a hundred."""
MAX_NAME = 1_024
"""Characters of such a member's name."""
MAX_SPACES = 4_096
"""Blanks between two tokens of the outermost object."""
Span = tuple[int, int]
"""Where a value stands in the body: its first byte, and the one after its last."""
Piece = bytes | memoryview


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


_NO_OPTIONS = _StreamOptions()
_FALSE = (b"false", b"null", b"0")
_ABSENT = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # Whatever is in these is the engine's to judge; a whole number is an estimate for us.
    max_tokens: msgspec.Raw = _ABSENT
    max_completion_tokens: msgspec.Raw = _ABSENT
    max_output_tokens: msgspec.Raw = _ABSENT
    n: msgspec.Raw = _ABSENT
    background: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT


class _Name(str):
    """A member's name that equals no other: as keys of one dict, repeated names all stay."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class ParsedRequest(msgspec.Struct, gc=False):
    """What the gateway needs of a body."""

    model: str
    stream: bool
    wants_usage: bool
    """The client itself asked for the usage chunk."""
    wants_running_usage: bool
    max_tokens: int
    """The most that it may be answered with, 0 where it does not say."""
    choices: int
    """Answers in one."""
    spans: dict[str, Span] | None
    """Of the members that may change; None: `model` stands once in the body, and no name has an escape."""
    body: bytes
    """May be dropped once it is not needed any more."""
    background: bool = False
    """`/v1/responses` is to answer before the work is done."""
    several_prompts: bool = False
    """Of `/v1/completions`."""


_body: Decoder[_Body] = Decoder(_Body)
_USAGE_OPTIONS = b'"include_usage":true,"continuous_usage_stats":true'
_MODEL = re.compile(rb'"model"[ \t\r\n]*+:[ \t\r\n]*+')
_STREAM_OPTIONS = re.compile(rb'"stream_options"[ \t\r\n]*+:[ \t\r\n]*+(\{[^{}"]*+(?:"[a-z_]++"[^{}"]*+)*+\})')
"""With its value, where that is flat and has but names of the usual kind in it."""
_SPACE = rf"[ \t\r\n]{{0,{MAX_SPACES}}}+"
_TO_VALUE = re.compile(rf'{_SPACE},?{_SPACE}"(?:[^"\\]++|\\.)*+"{_SPACE}:{_SPACE}'.encode(), re.DOTALL)
"""From the end of one value to the start of the next one."""
_ESCAPED_LETTERS = (b"\\u005f", b"\\u005F", b"\\u006", b"\\u007")
"""Small letters and `_`: no usual encoder escapes them, so an ordinary body has none of these."""


def parse(body: bytes) -> ParsedRequest:
    """Return what the gateway needs of a body.

    Raises:
        ApiError: 400 with the field that is wrong.
    """
    if len(body) > LARGE_BYTES:
        return _finish(parse_in_steps(body))
    if not body.isascii():
        _check_utf8(body)  # what the decoder skips it does not validate
    return _decode(body, None if _is_plain(body) else _spans(body))


def parse_in_steps(body: bytes) -> Iterator[ParsedRequest | None]:
    """Do the same as `parse`, a step of less than 50 ms at a time: yields None until the last step gives the result."""
    if not body.isascii():
        view = memoryview(body)
        start = 0
        while start < len(body):
            start += _check_utf8(view[start : start + UTF8_STEP_BYTES], last=start + UTF8_STEP_BYTES >= len(body))
            yield None
    separators = 0
    for separator in b",[{" if len(body) > MAX_SEPARATORS else b"":
        separators += body.count(separator)
        if separators > MAX_SEPARATORS:
            raise invalid_request(None, f"The body has more than {MAX_SEPARATORS} commas and opening brackets.")
        yield None
    spans = _spans(body)
    yield None
    yield _decode(body, spans)


def body_for_engine(parsed: ParsedRequest, *, served_as: str | None, usage_options: bool) -> list[Piece]:
    """Return the body for the engine, as pieces to be written one after the other.

    Args:
        served_as: the engine's name for the model; None: the client's.
        usage_options: ask a stream for its usage, whatever the client asked for.
    """
    edits: list[tuple[int, int, bytes]] = []
    if parsed.stream and usage_options:
        edits.append(_usage_edit(parsed))
    if served_as is not None and served_as != parsed.model:
        edits.append((*_model_span(parsed), _quoted(served_as)))
    if not edits:
        return [parsed.body]
    edits.sort()
    view = memoryview(parsed.body)
    pieces: list[Piece] = []
    at = 0
    for start, end, new in edits:
        pieces += (view[at:start], new)
        at = end
    pieces.append(view[at:])
    return pieces


@lru_cache(maxsize=1024)  # of the configuration's models
def _quoted(name: str) -> bytes:
    return msgspec.json.encode(name)


def _finish(steps: Iterator[ParsedRequest | None]) -> ParsedRequest:
    (parsed,) = filter(None, steps)
    return parsed


def _decode(body: bytes, spans: dict[str, Span] | None) -> ParsedRequest:
    try:
        fields = _body.decode(body)
    except Unreadable as error:
        raise _refusal(error) from None
    if not fields.model:
        raise invalid_request("model", "`model` must name a model.")
    options = fields.stream_options or _NO_OPTIONS
    most = max(map(whole_number, (fields.max_tokens, fields.max_completion_tokens, fields.max_output_tokens)))
    return ParsedRequest(
        fields.model,
        bool(fields.stream),
        bool(options.include_usage),
        bool(options.continuous_usage_stats),
        most,
        whole_number(fields.n) or 1,
        spans,
        body,
        fields.background is not _ABSENT and bytes(memoryview(fields.background)[:6]) not in _FALSE,
        are_several(fields.prompt),
    )


def _is_plain(body: bytes) -> bool:
    """Whether `model` can be given only once, and members are found by their names."""
    if body.count(b'"model"') > 1:
        return False
    if b"\\" not in body:  # several times as fast as a search for more than one byte
        return True
    return b"\\u00" not in body or not any(letter in body for letter in _ESCAPED_LETTERS)


def _spans(body: bytes) -> dict[str, Span]:
    """Where the values of the members that may change stand. Of members given twice the last one counts."""
    members: list[str] = []

    def on_name(_kind: type, name: str) -> _Name:
        if len(members) == MAX_MEMBERS:
            raise invalid_request(None, f"The body has more than {MAX_MEMBERS} members.")
        if len(name) > MAX_NAME:
            raise invalid_request(None, f"A member's name is longer than {MAX_NAME} characters.")
        if name == "model" and name in members:
            raise invalid_request("model", "`model` is given twice; give it once.")
        members.append(name)
        return _Name(name)

    try:
        decoder: Decoder[dict[_Name, msgspec.Raw]] = Decoder(dict[_Name, msgspec.Raw], dec_hook=on_name)
        values = decoder.decode(body)
    except Unreadable as error:
        raise _refusal(error) from None
    spans: dict[str, Span] = {}
    at = body.index(b"{") + 1
    for name, value in zip(members, values.values(), strict=True):
        to_value = _TO_VALUE.match(body, at)
        if to_value is None:
            raise invalid_request(None, f"More than {MAX_SPACES} blanks surround a member's name.")
        start, at = to_value.end(), to_value.end() + len(memoryview(value))
        if name in ("model", "stream_options"):
            spans[name] = (start, at)
    return spans


def _model_span(parsed: ParsedRequest) -> Span:
    if parsed.spans is None and (named := _MODEL.search(parsed.body)) is not None:
        value = _quoted(parsed.model)
        if parsed.body.startswith(value, named.end()):
            return named.end(), named.end() + len(value)
    return (parsed.spans or _spans(parsed.body))["model"]


def _usage_edit(parsed: ParsedRequest) -> tuple[int, int, bytes]:
    """What to put where, so that the stream options end with ours: the last of two members counts."""
    body, spans = parsed.body, parsed.spans
    if spans is None:
        times = body.count(b'"stream_options"')
        found = _STREAM_OPTIONS.search(body) if times == 1 and parsed.wants_usage else None
        if not times:
            spans = {}
        elif found is not None:
            spans = {"stream_options": found.span(1)}  # there is such a member, and this is the only one
        else:
            spans = _spans(body)
    if "stream_options" not in spans:
        start = body.index(b"{") + 1
        return start, start, b'"stream_options":{' + _USAGE_OPTIONS + b"},"
    start, end = spans["stream_options"]
    if body.startswith(b"null", start):
        return start, end, b"{" + _USAGE_OPTIONS + b"}"
    inner = body[start + 1 : end - 1]
    return end - 1, end - 1, (b"," if inner and not inner.isspace() else b"") + _USAGE_OPTIONS


def _check_utf8(data: bytes | memoryview, *, last: bool = True) -> int:
    """Return how many bytes were read: all but the beginning of a character that goes on behind them."""
    try:
        _, read = codecs.utf_8_decode(data, "strict", last)
    except UnicodeDecodeError as error:
        raise invalid_json(error.reason) from None
    return read


def _refusal(error: Unreadable) -> ApiError:
    cause = error.__cause__
    if isinstance(cause, msgspec.ValidationError):
        return _field_error(str(cause))
    return invalid_json("it is nested too deeply" if isinstance(cause, RecursionError) else str(cause))


def _field_error(message: str) -> ApiError:
    what, found, where = message.rpartition(" - at `$")
    if found:
        param = where.rstrip("`").lstrip(".")
        return invalid_request(param or None, f"`{param}`: {what[0].lower()}{what[1:]}." if param else f"{what}.")
    if "missing required field" in message:
        return invalid_request("model", "`model` is missing: name one of GET /v1/models.")
    return invalid_request(None, f"{message}.")
