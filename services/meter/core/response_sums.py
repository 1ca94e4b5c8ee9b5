"""Which counts of responses the ledger takes, and what it answers about them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.meter.core.day import Day, parse_day
from services.meter.core.dimensions import check_dimensions, format_dimension
from services.meter.core.event_validation import is_name
from shared.bus.subjects import responses_key
from shared.errors import Rejected
from shared.messages.codec import Unreadable
from shared.messages.responses import HourResponses, Responses, ResponsesQuery, ResponsesRow, ResponseSums
from shared.units import DAY_S, HOUR_S

DIMENSIONS = ("day", "hour", "model", "status", "code")
MAX_DAYS = 366
KEEP_HOURS_S = 60 * DAY_S
"""How long the counts of each source and hour are kept: longer than the bus has them, so none comes again later."""
ACCEPTED_S = 45 * DAY_S
AHEAD_S = HOUR_S
"""How old a message's hour may be, and how far ahead: clocks differ."""
MAX_COUNTS = 2000
"""Counts in one message: twice what a gateway sends."""

Group = tuple[tuple[int | str, ...], int, str]
"""The values of the requested dimensions, the status and the code."""


@dataclass(frozen=True, kw_only=True)
class ResponseSpan:
    """What a query asks for. Days since 1970, end exclusive."""

    day: Day
    first: int
    end: int
    by: tuple[str, ...]


def validated(key: str, message: HourResponses, now: float) -> HourResponses:
    """Return the message of a bucket's key; `Unreadable` if the ledger cannot take it."""
    if not is_name(message.source) or key != responses_key(message.source, message.hour):
        raise Unreadable("source: the message is not of this key's gateway and hour")
    if not now - ACCEPTED_S < message.hour * HOUR_S < now + AHEAD_S:
        raise Unreadable(f"hour: {message.hour} is too old, or has not begun")
    if len(message.counts) > MAX_COUNTS:
        raise Unreadable(f"counts: expected at most {MAX_COUNTS}")
    for count in message.counts:
        if count.model and not is_name(count.model):
            raise Unreadable("counts: a model's name is too long, or has a NUL")
    return message


def requested_span(query: ResponsesQuery) -> ResponseSpan:
    """Return what to read; raises `Rejected` with the name of the wrong field."""
    check_dimensions(query.by, DIMENSIONS)
    first = parse_day(query.day)
    last = first if query.to is None else parse_day(query.to, "to")
    if not first.end <= last.end <= first.start + MAX_DAYS * DAY_S:
        raise Rejected(f"to: expected {first.name} or one of the {MAX_DAYS - 1} days after it, got {query.to}")
    return ResponseSpan(day=first, first=int(first.start // DAY_S), end=int(last.end // DAY_S), by=query.by)


def build_responses(query: ResponsesQuery, groups: Mapping[Group, int]) -> Responses:
    """Build the answer from the responses of each group."""
    rows: dict[tuple[int | str, ...], ResponseSums] = {}
    for (values, status, code), responses in sorted(groups.items(), key=lambda item: str(item[0])):
        rows[values] = _add(rows.get(values, ResponseSums(failed=0)), status, code, responses)
    return Responses(
        day=query.day,
        to=query.to,
        totals=_total(rows.values()),
        rows=tuple(ResponsesRow(dimensions=dict(_named(query.by, values)), sums=sums) for values, sums in rows.items())
        if query.by
        else (),
    )


def _named(by: Sequence[str], values: tuple[int | str, ...]) -> Iterator[tuple[str, str]]:
    for dimension, value in zip(by, values, strict=True):
        yield dimension, format_dimension(dimension, value)


def _add(sums: ResponseSums, status: int, code: str, responses: int) -> ResponseSums:
    is_ok, is_waking = 200 <= status < 300, (status, code) == (503, "waking")
    return ResponseSums(
        responses=sums.responses + responses,
        succeeded=sums.succeeded + responses * (is_ok and not code),
        failed=(sums.failed or 0) + responses * ((status >= 500 and not is_waking) or (is_ok and bool(code))),
        unavailable=sums.unavailable + responses * (status == 503),
        timed_out=sums.timed_out + responses * (status == 504),
    )


def _total(parts: Iterable[ResponseSums]) -> ResponseSums:
    listed = list(parts)
    fields = ResponseSums.__struct_fields__
    return ResponseSums(**{name: sum(getattr(part, name) for part in listed) for name in fields})
