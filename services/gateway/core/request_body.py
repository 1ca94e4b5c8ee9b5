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

from services.gateway.core.errors import ApiError, invalid_json, invalid_request
from services.gateway.core.raw_values import ABSENT
from services.gateway.core.usage import number
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
MAX_NUMBER = 64
"""Characters: a longer number is nonsense."""
Span = tuple[int, int]
"""Where a value stands in the body: its first byte, and the one after its last."""
Piece = bytes | memoryview


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Body(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # Whatever is in these is the engine's to judge; a whole number is an estimate for us.
    max_tokens: msgspec.Raw = ABSENT
    max_completion_tokens: msgspec.Raw = ABSENT
    max_output_tokens: msgspec.Raw = ABSENT
    n: msgspec.Raw = ABSENT
    background: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT


class _FirstTwo(msgspec.Struct, array_like=True):
    first: msgspec.Raw = ABSENT
    second: msgspec.Raw = ABSENT


class _Name:
    """A member's name that equals no other: as keys of one dict, repeated names all stay."""


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
    background: bool
    """The answer is to come before the work is done, if the endpoint has such a mode."""
    several_prompts: bool
    """If the endpoint accepts them."""
    spans: dict[str, Span] | None
    """Of the members that may change; None: `model` stands once in the body, and no name has an escape."""
    body: bytes
    """May be dropped once it is not needed any more."""


_body: Decoder[_Body] = Decoder(_Body)
_first_two: Decoder[_FirstTwo] = Decoder(_FirstTwo)
_NO_OPTIONS = _StreamOptions()
_FALSE = (b"", b"false", b"null", b"0")
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
    return next(filter(None, parse_in_steps(body)))


def parse_in_steps(body: bytes) -> Iterator[ParsedRequest | None]:
    """Do the same as `parse`, a step of less than 50 ms at a time: yields None until the last step gives the result."""
    if not body.isascii():  # what the decoder skips it does not validate
        view, start = memoryview(body), 0
        while start < len(body):
            end = start + UTF8_STEP_BYTES
            try:
                start += codecs.utf_8_decode(view[start:end], "strict", end >= len(body))[1]
            except UnicodeDecodeError as error:
                raise invalid_json(error.reason) from None
            yield None
    separators = 0
    for separator in b",[{" if len(body) > MAX_SEPARATORS else b"":
        separators += body.count(separator)
        if separators > MAX_SEPARATORS:
            raise invalid_request(None, f"The body has more than {MAX_SEPARATORS} commas and opening brackets.")
        yield None
    spans = None
    if len(body) > LARGE_BYTES or not _is_plain(body):
        spans = _spans(body)
        yield None
    yield _parse(body, spans)


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
    edits.sort(reverse=True)  # from the end, so that what stands before keeps its place
    pieces: list[Piece] = [memoryview(parsed.body)]
    for start, end, new in edits:
        pieces[:1] = pieces[0][:start], new, pieces[0][end:]
    return pieces


@lru_cache(maxsize=1024)  # of the configuration's models
def _quoted(name: str) -> bytes:
    return msgspec.json.encode(name)


def _parse(body: bytes, spans: dict[str, Span] | None) -> ParsedRequest:
    try:
        fields = _body.decode(body)
    except Unreadable as error:
        raise _rejection(error) from None
    if not fields.model:
        raise invalid_request("model", "`model` is missing: name one of GET /v1/models.")
    options = fields.stream_options or _NO_OPTIONS
    most = max(_whole(fields.max_tokens), _whole(fields.max_completion_tokens), _whole(fields.max_output_tokens))
    return ParsedRequest(
        model=fields.model,
        stream=bool(fields.stream),
        wants_usage=bool(options.include_usage),
        wants_running_usage=bool(options.continuous_usage_stats),
        max_tokens=most,
        choices=_whole(fields.n) or 1,
        background=len(fields.background) > len(b"false") or bytes(fields.background) not in _FALSE,
        several_prompts=_has_several(fields.prompt),
        spans=spans,
        body=body,
    )


def _whole(value: msgspec.Raw) -> int:
    """A number of tokens or choices as engines read it, who take `4.0` and `"4"` for 4; 0 where it is none."""
    return (number(value) or 0) if len(value) <= MAX_NUMBER else 0


def _has_several(prompt: msgspec.Raw) -> bool:
    """Whether it is a list of texts or of lists of token ids; one of token ids alone is one prompt."""
    if bytes(memoryview(prompt)[:1]) != b"[":
        return False
    two = _first_two.decode(memoryview(prompt))
    return len(two.second) > 0 and bytes(memoryview(two.first)[:1]) in (b'"', b"[")


def _is_plain(body: bytes) -> bool:
    """Whether `model` can be given only once, and members are found by their names."""
    if body.count(b'"model"') > 1:
        return False
    if b"\\" not in body:  # several times as fast as a search for more than one byte
        return True
    return b"\\u00" not in body or not any(letter in body for letter in _ESCAPED_LETTERS)


def _spans(body: bytes) -> dict[str, Span]:
    """Where the values of the members that may change stand. Of members given twice the last one counts."""
    names: list[str] = []

    def on_name(_kind: type, name: str) -> _Name:
        if len(names) == MAX_MEMBERS:
            raise invalid_request(None, f"The body has more than {MAX_MEMBERS} members.")
        if len(name) > MAX_NAME:
            raise invalid_request(None, f"A member's name is longer than {MAX_NAME} characters.")
        if name == "model" and name in names:
            raise invalid_request("model", "`model` is given twice; give it once.")
        names.append(name)
        return _Name()

    try:
        decoder: Decoder[dict[_Name, msgspec.Raw]] = Decoder(dict[_Name, msgspec.Raw], dec_hook=on_name)
        values = decoder.decode(body).values()
    except Unreadable as error:
        raise _rejection(error) from None
    spans: dict[str, Span] = {}
    at = body.index(b"{") + 1
    for name, value in zip(names, values, strict=True):
        to_value = _TO_VALUE.match(body, at)
        if to_value is None:
            raise invalid_request(None, f"More than {MAX_SPACES} blanks surround a member's name.")
        start, at = to_value.end(), to_value.end() + len(value)
        if name in ("model", "stream_options"):
            spans[name] = (start, at)
    return spans


def _model_span(parsed: ParsedRequest) -> Span:
    if parsed.spans is None and (named := _MODEL.search(parsed.body)) is not None:
        value = _quoted(parsed.model)
        if parsed.body.startswith(value, named.end()):
            return named.end(), named.end() + len(value)
    return (parsed.spans or _spans(parsed.body))["model"]


def _stream_options_span(parsed: ParsedRequest) -> Span | None:
    if parsed.spans is None:
        times = parsed.body.count(b'"stream_options"')
        if not times:
            return None
        # If they say something, there is such a member, and this is the only one.
        if times == 1 and parsed.wants_usage and (found := _STREAM_OPTIONS.search(parsed.body)) is not None:
            return found.span(1)
    return (parsed.spans or _spans(parsed.body)).get("stream_options")


def _usage_edit(parsed: ParsedRequest) -> tuple[int, int, bytes]:
    """What to put where, so that the stream options end with ours: the last of two members counts."""
    span = _stream_options_span(parsed)
    if span is None:
        start = parsed.body.index(b"{") + 1
        return start, start, b'"stream_options":{' + _USAGE_OPTIONS + b"},"
    start, end = span
    if parsed.body.startswith(b"null", start):
        return start, end, b"{" + _USAGE_OPTIONS + b"}"
    return end - 1, end - 1, (b"," if parsed.body[start + 1 : end - 1].strip() else b"") + _USAGE_OPTIONS


def _rejection(error: Unreadable) -> ApiError:
    cause = error.__cause__
    if not isinstance(cause, msgspec.ValidationError):
        return invalid_json("it is nested too deeply" if isinstance(cause, RecursionError) else str(cause))
    what, _, where = str(cause).rpartition(" - at `$.")
    if not what:
        return invalid_request(None, f"{cause}.")
    param = where.rstrip("`")
    return invalid_request(param, f"`{param}`: {what[0].lower()}{what[1:]}.")
