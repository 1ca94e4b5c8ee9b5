"""What routing needs of a request's body, and the body that goes to the engine.

The body travels byte for byte except for what must change: the model's served name and the stream options. Both are put
in where they stand, so that nothing else is read, let alone written anew.
"""

import re
from functools import lru_cache

import msgspec

from services.gateway.core.errors import ApiError, invalid_json, invalid_request

MAX_STRINGS = 1_000_000
"""In a body that names `model` more than once somewhere: to tell where, each costs time and memory."""


MAX_COUNT_DIGITS = 10
"""Of a number of tokens that is one."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


_NO_OPTIONS = _StreamOptions()
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


class _Options(msgspec.Struct):
    stream_options: msgspec.Raw = _ABSENT


class Asked(msgspec.Struct, gc=False):
    """What a body says about its way."""

    model: str
    stream: bool
    wants_usage: bool
    """The client itself asked for the usage chunk."""
    wants_running_usage: bool
    max_tokens: int
    """The most that it may be answered with, 0 where it does not say."""
    choices: int
    """Answers in one."""
    plain: bool
    """No name in it is spelt with an escape, and `"model"` stands in it once."""
    body: bytes
    """May be dropped once it is not needed any more."""


_body = msgspec.json.Decoder(_Body)
_options = msgspec.json.Decoder(_Options)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_USAGE_OPTIONS = b'"include_usage":true,"continuous_usage_stats":true'


def _member(name: str) -> re.Pattern[bytes]:
    """A member's name in any spelling, up to its value.

    Within a string a quote has a backslash before it, so what matches is a whole name, in whatever object.
    """
    digits = (f"{ord(letter):04x}" for letter in name)
    escapes = ("".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in code) for code in digits)
    spelling = "".join(f"(?:{letter}|\\\\u{escape})" for letter, escape in zip(name, escapes, strict=True))
    return re.compile(rf'(?<!\\)"{spelling}"[ \t\r\n]*:[ \t\r\n]*'.encode("ascii"))


_PLAIN_MODEL = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*')
_MODEL = _member("model")
_STREAM_OPTIONS = _member("stream_options")


def parse(body: bytes) -> Asked:
    """What is asked, or `ApiError` 400 with the field that is wrong."""
    try:
        if not body.isascii():
            body.decode("utf-8")  # what the decoder skips it does not validate
        fields: _Body = _body.decode(body)
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json(str(error)) from None
    if not fields.model:
        raise invalid_request("model", "`model` must name a model.")
    plain = (b"\\" not in body or b"\\u00" not in body) and body.count(b'"model"') == 1
    if not plain:
        _name_model_once(body)
    options = fields.stream_options or _NO_OPTIONS
    most = _count(fields.max_tokens) or _count(fields.max_completion_tokens) or _count(fields.max_output_tokens)
    return Asked(
        fields.model,
        bool(fields.stream),
        bool(options.include_usage),
        bool(options.continuous_usage_stats),
        most,
        _count(fields.n) or 1,
        plain,
        body,
    )


def for_engine(asked: Asked, *, served_as: str | None, usage_options: bool) -> bytes:
    """The body for the engine. `usage_options`: ask a stream for its usage, whatever the client asked."""
    body = asked.body
    if asked.stream and usage_options:
        body = _with_usage_options(body, plain=asked.plain)
    if served_as is not None and served_as != asked.model:
        start = _model_at(body, plain=asked.plain)
        name = _STRING.match(body, start)
        assert name is not None, "its value is known to be a string"
        body = b"%b%b%b" % (body[:start], _quoted(served_as), body[name.end() :])
    return body


@lru_cache(maxsize=1024)  # of the configuration's models
def _quoted(name: str) -> bytes:
    return msgspec.json.encode(name)


def _with_usage_options(body: bytes, *, plain: bool) -> bytes:
    # Members that are given twice count as their last one says.
    absent = plain and b'"stream_options"' not in body
    starts = [] if absent else _values(body, _STREAM_OPTIONS)
    if not starts:
        start = body.index(b"{") + 1
        return body[:start] + b'"stream_options":{' + _USAGE_OPTIONS + b"}," + body[start:]
    theirs = bytes(_options.decode(body).stream_options)
    inner = b"" if theirs == b"null" else theirs[1:-1].strip()
    ours = b"{" + inner + (b"," if inner else b"") + _USAGE_OPTIONS + b"}"
    return body[: starts[-1]] + ours + body[starts[-1] + len(theirs) :]


def _model_at(body: bytes, *, plain: bool) -> int:
    """Where the value of `model` begins, in a body that has been parsed."""
    if plain and (match := _PLAIN_MODEL.search(body)) is not None:
        return match.end()  # named once, and there is such a member: this is it
    (start,) = _values(body, _MODEL)
    return start


def _values(body: bytes, member: re.Pattern[bytes]) -> list[int]:
    """Where the values of the outermost object's members of this name begin."""
    found: list[int] = []
    depth = at = 0
    for match in member.finditer(body):
        # Before a name and after its colon nothing is inside a string.
        between = _STRING.sub(b"", body[at : match.start()])
        depth += between.count(b"{") + between.count(b"[") - between.count(b"}") - between.count(b"]")
        at = match.end()
        if depth == 1:
            found.append(at)
    return found


def _count(value: msgspec.Raw) -> int:
    given = bytes(value)
    return int(given) if given.isdigit() and len(given) < MAX_COUNT_DIGITS else 0


def _field_error(message: str) -> ApiError:
    what, found, where = message.rpartition(" - at `$")
    if found:
        param = where.rstrip("`").lstrip(".")
        return invalid_request(param or None, f"`{param}`: {what[0].lower()}{what[1:]}." if param else f"{what}.")
    if "missing required field" in message:
        return invalid_request("model", "`model` is missing: name one of GET /v1/models.")
    return invalid_request(None, f"{message}.")


def _name_model_once(body: bytes) -> None:
    if body.count(b'"') > 2 * MAX_STRINGS:
        raise invalid_request(None, f"The body has more than {MAX_STRINGS} strings and names `model` more than once.")
    if len(_values(body, _MODEL)) > 1:
        raise invalid_request("model", "`model` is given twice; give it once.")
