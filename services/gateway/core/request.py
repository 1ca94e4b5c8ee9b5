"""What routing needs of a request's body, and the body that goes to the engine.

The body travels byte for byte except for what must change: the model's served name and the stream options.
"""

import json
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


@dataclass(frozen=True)
class Asked:
    """What a body says about its way."""

    model: str
    stream: bool
    wants_usage: bool
    """The client itself asked for the usage chunk."""
    wants_running_usage: bool
    body: bytes


_body = msgspec.json.Decoder(_Body)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


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
        body=body,
    )


def for_engine(asked: Asked, *, served_as: str | None, usage_options: bool) -> bytes:
    """The body for the engine. `usage_options`: ask a stream for its usage, whatever the client asked."""
    changes: dict[str, bytes] = {}
    if served_as is not None and served_as != asked.model:
        changes["model"] = msgspec.json.encode(served_as)
    if asked.stream and usage_options:
        changes["stream_options"] = b'{"include_usage":true,"continuous_usage_stats":true}'
    if not changes:
        return asked.body
    if set(changes) == {"stream_options"} and b'"stream_options"' not in asked.body and b"\\u" not in asked.body:
        start = asked.body.index(b"{") + 1
        return asked.body[:start] + b'"stream_options":' + changes["stream_options"] + b"," + asked.body[start:]
    members = _members.decode(asked.body)
    if "stream_options" in changes and "stream_options" in members:
        changes["stream_options"] = _merged(members["stream_options"])
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
