"""What an engine says went wrong, and whether it blames the request or itself."""

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
"""In an error's `type` or `code`, where that is no status."""


class EngineError(msgspec.Struct, frozen=True):
    """An error of an engine's own."""

    refused: bool
    """The engine refused this very request, which says nothing against its machine."""


class _Body(msgspec.Struct):
    code: msgspec.Raw = ABSENT
    status: msgspec.Raw = ABSENT
    type: msgspec.Raw = ABSENT


_body: Decoder[_Body] = Decoder(_Body)


def is_refusal(status: int) -> bool:
    """Whether a status blames the request: any 4xx, and 501, which says that the engine has no such thing."""
    return 400 <= status < 500 or status == NOT_IMPLEMENTED


def is_machine_failure(status: int) -> bool:
    """Whether a status speaks against the machine that sent it."""
    return status >= 500 and status != NOT_IMPLEMENTED


def read_error(raw: bytes | msgspec.Raw) -> EngineError | None:
    """Read an `error` value; None: there is no error.

    A status as its `code` or `status` decides. Without one, a `type` or `code` such as `invalid_request_error` or
    `BadRequestError` does.
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
