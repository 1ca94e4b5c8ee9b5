"""An engine's own errors, and whether the request or the machine is to blame."""

import re

import msgspec

from services.gateway.core.raw_values import ABSENT
from shared.messages.codec import Decoder, Unreadable

NOT_IMPLEMENTED = 501
_EMPTY = frozenset({b"", b"null", b"false", b'""', b"{}", b"[]", b"0"})
_STATUS = re.compile(rb'"?([1-5]\d\d)"?')
_NOT_LETTERS = re.compile(rb"[^a-z]+")
_REFUSALS = re.compile(
    rb"invalid|bad.?request|not.?found|unprocessable|validation|context.?(?:length|size)|too.?large"
    rb"|not.?(?:supported|implemented)|unsupported|authentication|permission|forbidden|rate.?limit|content.?(?:filter|policy)"
)
"""Words in an error's `type` or `code` that blame the request."""


class EngineError(msgspec.Struct, frozen=True):
    """An error that an engine reported."""

    refused: bool
    """The engine rejected this very request, which says nothing against its machine."""


class _Body(msgspec.Struct):
    code: msgspec.Raw = ABSENT
    status: msgspec.Raw = ABSENT
    type: msgspec.Raw = ABSENT


_body: Decoder[_Body] = Decoder(_Body)


def is_refusal(status: int) -> bool:
    """Return whether a status blames the request: any 4xx, and 501, since the engine lacks the feature."""
    return 400 <= status < 500 or status == NOT_IMPLEMENTED


def is_machine_failure(status: int) -> bool:
    """Return whether a status blames the machine that sent it."""
    return status >= 500 and status != NOT_IMPLEMENTED


def read_error(raw: bytes | msgspec.Raw) -> EngineError | None:
    """Read an `error` value; None if it is empty.

    An HTTP status in `code` or `status` decides who is to blame. Without one, a `type` or `code` such as
    `invalid_request_error` or `BadRequestError` does.
    """
    if bytes(raw) in _EMPTY:
        return None
    try:
        error = _body.decode(bytes(raw))
    except Unreadable:
        return EngineError(refused=False)
    for value in (error.code, error.status):
        if match := _STATUS.fullmatch(bytes(value)):
            return EngineError(refused=is_refusal(int(match[1])))
    words = (_NOT_LETTERS.sub(b" ", bytes(value)[:200].lower()) for value in (error.type, error.code))
    return EngineError(refused=any(_REFUSALS.search(word) for word in words))
