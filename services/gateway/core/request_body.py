"""Parses what routing needs of a request body, and builds the body for the engine.

The engine gets the body byte for byte, except for what must change: the model's served name and the stream options.
These are spliced in between views of the body: nothing else is copied or encoded again.

msgspec skips other values at about 1 GB/s without making objects of them. Python sees only the members of the outermost
object, whose number is bounded.
"""

import codecs
import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from services.gateway.core.errors import ApiError, invalid_json, invalid_request
from services.gateway.core.raw_values import ABSENT
from services.gateway.core.usage import read_number
from shared.messages.codec import Decoder, Unreadable

LARGE_BYTES = 1024 * 1024
"""Larger bodies are parsed in steps, with other work in between."""
UTF8_STEP_BYTES = 8 * 1024 * 1024
"""Bytes validated in one step, which takes 8 ms."""
MAX_SEPARATORS = 6_000_000
"""Commas and opening brackets in one body. They are what the decoder is slow at: 40 ms for this many.

A 32 MB prompt of token ids has fewer."""
MAX_MEMBERS = 1_000
"""Members of the outermost object; the API has fewer than a hundred."""
MAX_NAME = 1_024
"""Characters of such a member's name."""
MAX_SPACES = 4_096
"""Whitespace between two tokens of the outermost object."""
MAX_NUMBER = 64
"""Characters of a number; a longer one is nonsense."""
Span = tuple[int, int]
"""A value's place in the body: its first byte, and the one after its last."""
Piece = bytes | memoryview


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Body(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # The engine judges these, so any value is accepted here.
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
    """A member's name that equals no other, so that repeated names all stay as keys of one dict."""


class ParsedRequest(msgspec.Struct, gc=False):
    """What the gateway needs to know of a request body."""

    model: str
    stream: bool
    wants_usage: bool
    """Whether the client asked for the usage at the end of a stream."""
    wants_running_usage: bool
    max_tokens: int
    """The most completion tokens of one choice; 0: not given."""
    choices: int
    """The number of choices (`n`)."""
    background: bool
    """Whether the client wants a response before the work is done, if the endpoint has such a mode."""
    several_prompts: bool
    """Whether `prompt` is a list of prompts, if the endpoint accepts one."""
    spans: dict[str, Span] | None
    """Where the members are that may change; None if `"model"` occurs once in the body and no name is escaped."""
    body: bytes
    """The relay drops it once the engine has it."""


_body: Decoder[_Body] = Decoder(_Body)
_first_two: Decoder[_FirstTwo] = Decoder(_FirstTwo)
_NO_OPTIONS = _StreamOptions()
_FALSE = (b"", b"false", b"null", b"0")
_USAGE_OPTIONS = b'"include_usage":true,"continuous_usage_stats":true'
_MODEL = re.compile(rb'"model"[ \t\r\n]*+:[ \t\r\n]*+')
_STREAM_OPTIONS = re.compile(rb'"stream_options"[ \t\r\n]*+:[ \t\r\n]*+(\{[^{}"]*+(?:"[a-z_]++"[^{}"]*+)*+\})')
"""The member with its value, if the value is flat and all its names are plain."""
_SPACE = rf"[ \t\r\n]{{0,{MAX_SPACES}}}+"
_TO_VALUE = re.compile(rf'{_SPACE},?{_SPACE}"(?:[^"\\]++|\\.)*+"{_SPACE}:{_SPACE}'.encode(), re.DOTALL)
"""From the end of one value to the start of the next."""
_ESCAPED_LETTERS = (b"\\u005f", b"\\u005F", b"\\u006", b"\\u007")
"""Escaped lower-case letters and `_`: encoders do not escape them, so an ordinary body has none."""


def parse(body: bytes) -> ParsedRequest:
    """Parse a request body.

    Raises:
        ApiError: 400 with the wrong field.
    """
    return next(filter(None, parse_in_steps(body)))


def parse_in_steps(body: bytes) -> Iterator[ParsedRequest | None]:
    """Parse like `parse`, in steps of less than 50 ms: each yields None, the last one the result."""
    if not body.isascii():  # the decoder does not validate what it skips
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
            raise invalid_request(
                None, f"The body has more than {MAX_SEPARATORS} commas and opening brackets. Send a shorter request."
            )
        yield None
    spans = None
    if len(body) > LARGE_BYTES or not _is_plain(body):
        spans = _find_spans(body)
        yield None
    yield _parse(body, spans)


def body_for_engine(parsed: ParsedRequest, *, served_as: str | None, usage_options: bool) -> list[Piece]:
    """Return the body for the engine, as pieces to write one after the other.

    Args:
        served_as: the engine's name for the model; None: the same as the client's.
        usage_options: whether to ask for a stream's usage even if the client did not.
    """
    edits: list[tuple[int, int, bytes]] = []
    if parsed.stream and usage_options:
        edits.append(_usage_edit(parsed))
    if served_as is not None and served_as != parsed.model:
        edits.append((*_find_model(parsed), _encode_name(served_as)))
    edits.sort(reverse=True)  # from the end, so that earlier positions stay valid
    pieces: list[Piece] = [memoryview(parsed.body)]
    for start, end, new in edits:
        pieces[:1] = pieces[0][:start], new, pieces[0][end:]
    return pieces


@lru_cache(maxsize=1024)  # of the configuration's models
def _encode_name(name: str) -> bytes:
    return msgspec.json.encode(name)


def _parse(body: bytes, spans: dict[str, Span] | None) -> ParsedRequest:
    try:
        fields = _body.decode(body)
    except Unreadable as error:
        raise _rejection(error) from None
    if not fields.model:
        raise invalid_request("model", "`model` is required. List the available models with GET /v1/models.")
    options = fields.stream_options or _NO_OPTIONS
    most = max(
        _read_whole_number(fields.max_tokens),
        _read_whole_number(fields.max_completion_tokens),
        _read_whole_number(fields.max_output_tokens),
    )
    return ParsedRequest(
        model=fields.model,
        stream=bool(fields.stream),
        wants_usage=bool(options.include_usage),
        wants_running_usage=bool(options.continuous_usage_stats),
        max_tokens=most,
        choices=_read_whole_number(fields.n) or 1,
        background=len(fields.background) > len(b"false") or bytes(fields.background) not in _FALSE,
        several_prompts=_has_several(fields.prompt),
        spans=spans,
        body=body,
    )


def _read_whole_number(value: msgspec.Raw) -> int:
    """Return a number of tokens or choices as engines read it: `4.0` and `"4"` are 4. Anything else is 0."""
    return (read_number(value) or 0) if len(value) <= MAX_NUMBER else 0


def _has_several(prompt: msgspec.Raw) -> bool:
    """Return whether it is a list of texts or of token lists; a list of token ids is one prompt."""
    if bytes(memoryview(prompt)[:1]) != b"[":
        return False
    two = _first_two.decode(memoryview(prompt))
    return len(two.second) > 0 and bytes(memoryview(two.first)[:1]) in (b'"', b"[")


def _is_plain(body: bytes) -> bool:
    """Return whether `model` can only occur once, and members can be found by searching for their names."""
    if body.count(b'"model"') > 1:
        return False
    if b"\\" not in body:  # several times as fast as a search for more than one byte
        return True
    return b"\\u00" not in body or not any(letter in body for letter in _ESCAPED_LETTERS)


def _find_spans(body: bytes) -> dict[str, Span]:
    """Find the values of the members that may change. If a member occurs twice, the last one counts."""
    names: list[str] = []

    def on_name(_kind: type, name: str) -> _Name:
        if len(names) == MAX_MEMBERS:
            raise invalid_request(None, f"The body has more than {MAX_MEMBERS} fields.")
        if len(name) > MAX_NAME:
            raise invalid_request(None, f"The body has a field name of more than {MAX_NAME} characters.")
        if name == "model" and name in names:
            raise invalid_request("model", "`model` occurs twice. Send it once.")
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
            raise invalid_request(
                None, f"The body has more than {MAX_SPACES} whitespace characters around a field name."
            )
        start, at = to_value.end(), to_value.end() + len(value)
        if name in ("model", "stream_options"):
            spans[name] = (start, at)
    return spans


def _find_model(parsed: ParsedRequest) -> Span:
    if parsed.spans is None and (named := _MODEL.search(parsed.body)) is not None:
        value = _encode_name(parsed.model)
        if parsed.body.startswith(value, named.end()):
            return named.end(), named.end() + len(value)
    return (parsed.spans or _find_spans(parsed.body))["model"]


def _find_stream_options(parsed: ParsedRequest) -> Span | None:
    if parsed.spans is None:
        times = parsed.body.count(b'"stream_options"')
        if not times:
            return None
        # The client's options were parsed from a member of this name, and there is no other.
        if times == 1 and parsed.wants_usage and (match := _STREAM_OPTIONS.search(parsed.body)) is not None:
            return match.span(1)
    return (parsed.spans or _find_spans(parsed.body)).get("stream_options")


def _usage_edit(parsed: ParsedRequest) -> tuple[int, int, bytes]:
    """Return the edit that makes the stream options end with ours: of two equal members, the last counts."""
    span = _find_stream_options(parsed)
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
