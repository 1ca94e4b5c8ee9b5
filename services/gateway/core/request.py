"""What routing needs of a request's body, and the body that goes to the engine.

The body travels byte for byte except for what must change: the model's served name and the stream options.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from services.gateway.core.errors import ApiError, invalid_json, invalid_request


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # Whatever is in these is the engine's to judge; a whole number is an estimate for us.
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None

    @property
    def most_tokens(self) -> int:
        given = (self.max_tokens, self.max_completion_tokens, self.max_output_tokens)
        return max((n for n in given if type(n) is int and n > 0), default=0)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body says about its way."""

    model: str
    stream: bool
    wants_usage: bool
    """The client itself asked for the usage chunk."""
    wants_running_usage: bool
    max_tokens: int
    """The most that it may be answered with, 0 where it does not say."""
    body: bytes


_body = msgspec.json.Decoder(_Body)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MODEL = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.)*")')
"""Where `"model"` occurs once in a body, this finds that member: its value is known to be a string."""
_OPTIONS = b'{"include_usage":true,"continuous_usage_stats":true}'


def parse(body: bytes) -> Asked:
    """What is asked, or `ApiError` 400 with the field that is wrong."""
    try:
        body.decode("utf-8")  # what the decoder skips it does not validate
        fields = _body.decode(body)
        repeated = _may_repeat_model(body) and _repeats_model(body)
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json(str(error)) from None
    if not fields.model:
        raise invalid_request("model", "`model` must name a model.")
    if repeated:
        raise invalid_request("model", "`model` is given twice; give it once.")
    options = fields.stream_options or _StreamOptions()
    return Asked(
        model=fields.model,
        stream=bool(fields.stream),
        wants_usage=bool(options.include_usage),
        wants_running_usage=bool(options.continuous_usage_stats),
        max_tokens=fields.most_tokens,
        body=body,
    )


def for_engine(asked: Asked, *, served_as: str | None, usage_options: bool) -> bytes:
    """The body for the engine. `usage_options`: ask a stream for its usage, whatever the client asked."""
    rename = served_as is not None and served_as != asked.model
    add_options = asked.stream and usage_options
    if not rename and not add_options:
        return asked.body
    body = asked.body
    if b"\\u" in body or (add_options and b'"stream_options"' in body):
        return _rewritten(asked, served_as if rename else None, add_options=add_options)
    if rename:
        named = _MODEL.search(body) if body.count(b'"model"') == 1 else None
        if named is None:
            return _rewritten(asked, served_as, add_options=add_options)
        body = body[: named.start(1)] + msgspec.json.encode(served_as) + body[named.end(1) :]
    if add_options:
        start = body.index(b"{") + 1
        body = body[:start] + b'"stream_options":' + _OPTIONS + b"," + body[start:]
    return body


def _rewritten(asked: Asked, served_as: str | None, *, add_options: bool) -> bytes:
    """The long way, for any spelling: member by member, each value as it was written."""
    members = _members.decode(asked.body)
    changes: dict[str, bytes] = {}
    if served_as is not None:
        changes["model"] = msgspec.json.encode(served_as)
    if add_options:
        changes["stream_options"] = _merged(members["stream_options"]) if "stream_options" in members else _OPTIONS
    written = {name: changes.get(name, bytes(value)) for name, value in members.items()} | changes
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + value for name, value in written.items()) + b"}"


def _merged(options: msgspec.Raw) -> bytes:
    """The client's stream options, unknown ones included, with ours on."""
    theirs: dict[str, Any] | None = msgspec.json.decode(options, type=dict[str, Any] | None)
    return msgspec.json.encode((theirs or {}) | {"include_usage": True, "continuous_usage_stats": True})


def _field_error(message: str) -> ApiError:
    what, found, where = message.rpartition(" - at `$")
    if found:
        param = where.rstrip("`").lstrip(".")
        return invalid_request(param or None, f"`{param}`: {what[0].lower()}{what[1:]}." if param else f"{what}.")
    if "missing required field" in message:
        return invalid_request("model", "`model` is missing: name one of GET /v1/models.")
    return invalid_request(None, f"{message}.")


def _may_repeat_model(body: bytes) -> bool:
    """Whether the slow look is worth it: the name occurs more than once, or could be spelt with escapes."""
    return body.count(b'"model"') != 1 or b"\\u00" in body


def _repeats_model(body: bytes) -> bool:
    seen: list[int] = []

    def on_object(pairs: list[tuple[str, Any]]) -> None:
        # Called for inner objects first: the last call is for the outermost.
        seen.append(sum(name == "model" for name, _ in pairs))

    json.loads(body, object_pairs_hook=on_object)
    return seen[-1] > 1
