"""Token counts as engines report them, each number validated on its own."""

import math
import re
from contextlib import suppress
from itertools import islice
from typing import Annotated, NamedTuple

import msgspec

from services.gateway.core.raw_values import ABSENT, decode_or
from shared.messages.codec import Decoder, Unreadable
from shared.messages.gateway import Basis

MAX_TOKENS = 2**40
"""No request has this many tokens: such a number is nonsense."""
LARGE_BODY = 8 * 1024 * 1024
"""Bytes. A larger body is not parsed, since that would block the loop: its usage is searched at both ends."""
_WINDOW = 64 * 1024
"""Bytes searched at each end."""
_TRIES = 4
"""Candidates for the usage that are tried in a window."""
_PLAIN_DIGITS = 13
"""A number with fewer digits is below `MAX_TOKENS`."""

_NUMBER = re.compile(rb'"?(\d{1,13}(?:\.\d{1,20})?(?:[eE][+-]?\d{1,2})?)"?')
_USAGE = re.compile(rb',\s*"usage"\s*:\s*(?=\{)')


class _Details(msgspec.Struct):
    cached_tokens: msgspec.Raw = ABSENT
    reasoning_tokens: msgspec.Raw = ABSENT


class _Usage(msgspec.Struct):
    """`/v1/responses` uses other names for the same numbers."""

    prompt_tokens: msgspec.Raw = ABSENT
    completion_tokens: msgspec.Raw = ABSENT
    prompt_tokens_details: msgspec.Raw = ABSENT
    completion_tokens_details: msgspec.Raw = ABSENT
    input_tokens: msgspec.Raw = ABSENT
    output_tokens: msgspec.Raw = ABSENT
    input_tokens_details: msgspec.Raw = ABSENT
    output_tokens_details: msgspec.Raw = ABSENT


_Tokens = Annotated[int, msgspec.Meta(ge=0, lt=MAX_TOKENS)]


class _PlainUsage(msgspec.Struct, forbid_unknown_fields=True):
    """What most engines report; any other usage is read number by number."""

    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    total_tokens: int
    prompt_tokens_details: None = None
    completion_tokens_details: None = None


class Body(msgspec.Struct):
    """The members read from an engine's JSON object."""

    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    object: msgspec.Raw = ABSENT


_usage: Decoder[_Usage] = Decoder(_Usage)
_plain_usage: Decoder[_PlainUsage] = Decoder(_PlainUsage)
_details: Decoder[_Details] = Decoder(_Details)
body_decoder: Decoder[Body] = Decoder(Body)
_NO_DETAILS, NO_BODY = _Details(), Body()


class ReportedUsage(NamedTuple):
    """The numbers that an engine reported; None: missing or nonsensical."""

    prompt: int | None = None
    cached: int | None = None
    completion: int | None = None
    reasoning: int | None = None


NO_USAGE = ReportedUsage()


class TokenCount(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one request; prompt includes cached, completion includes reasoning."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    basis: Basis = "none"


NO_TOKENS = TokenCount()
"""The count of a request of which nothing is known."""


def read_number(raw: bytes | msgspec.Raw) -> int | None:
    """Read a whole number from 0 to below `MAX_TOKENS`; None for anything else. 7, 7.0 and "7" are the same."""
    if not raw:
        return None
    digits = bytes(raw)
    if digits.isdigit() and len(digits) < _PLAIN_DIGITS:
        return int(digits)
    match = _NUMBER.fullmatch(digits)
    value = float(match[1]) if match else math.inf
    return int(value) if value < MAX_TOKENS and value.is_integer() else None


def read_usage(raw: bytes | msgspec.Raw) -> ReportedUsage:
    """Read a `usage` value of any type."""
    plain = decode_or(None, _plain_usage, raw)
    if plain is not None:
        return ReportedUsage(plain.prompt_tokens, None, plain.completion_tokens)
    usage = decode_or(None, _usage, raw)
    if usage is None:
        return NO_USAGE
    of_prompt, of_input, of_completion, of_output = (
        decode_or(_NO_DETAILS, _details, details)
        for details in (
            usage.prompt_tokens_details,
            usage.input_tokens_details,
            usage.completion_tokens_details,
            usage.output_tokens_details,
        )
    )
    return ReportedUsage(
        _first(usage.prompt_tokens, usage.input_tokens),
        _first(of_prompt.cached_tokens, of_input.cached_tokens),
        _first(usage.completion_tokens, usage.output_tokens),
        _first(of_completion.reasoning_tokens, of_output.reasoning_tokens),
    )


def count_tokens(reported: ReportedUsage, deltas: int = 0) -> TokenCount:
    """Return the reported tokens; without a reported completion, count one token per relayed delta."""
    prompt, completion = reported.prompt or 0, reported.completion
    basis: Basis = "engine"
    if completion is None:
        basis = "counted" if deltas else "none" if reported.prompt is None else "engine"
        completion = deltas
    return TokenCount(
        prompt=prompt,
        cached=min(reported.cached or 0, prompt),
        completion=completion,
        reasoning=min(reported.reasoning or 0, completion),
        basis=basis,
    )


def read_body_usage(body: bytes | bytearray) -> ReportedUsage:
    """Return the usage in a buffered JSON response; `NO_USAGE` if it has none."""
    if len(body) > LARGE_BODY:
        return _usage_at_the_end(body) or _usage_at_the_beginning(body) or NO_USAGE
    return read_usage(decode_or(NO_BODY, body_decoder, body).usage)


def _usage_at_the_end(body: bytes | bytearray) -> ReportedUsage | None:
    """Search the tail. If the text after a comma parses with a brace before it, its members are the outermost
    object's."""
    tail = bytes(body[-_WINDOW:])
    for match in list(_USAGE.finditer(tail))[-_TRIES:]:
        with suppress(Unreadable):
            return read_usage(body_decoder.decode(b"{" + tail[match.start() + 1 :]).usage)
    return None


def _usage_at_the_beginning(body: bytes | bytearray) -> ReportedUsage | None:
    """Search the head. If the text before a comma parses with a brace after it, the next member is the outermost
    object's."""
    head = bytes(body[:_WINDOW])
    for match in islice(_USAGE.finditer(head), _TRIES):
        with suppress(Unreadable):
            body_decoder.decode(head[: match.start()] + b"}")
            end = match.end()
            for _ in range(_TRIES):  # one closing brace per nested object
                end = head.find(b"}", end) + 1
                with suppress(Unreadable):
                    return read_usage(body_decoder.decode(b'{"usage":' + head[match.end() : end] + b"}").usage)
    return None


def _first(one: msgspec.Raw, other: msgspec.Raw) -> int | None:
    """Return the first value that is a valid number."""
    value = read_number(one)
    return read_number(other) if value is None else value
