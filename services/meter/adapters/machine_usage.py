"""What the ledger has of each machine's requests in one day, and bounds for the engine's work on them."""

from collections import defaultdict
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.meter.adapters.audit_tables import engine_days
from services.meter.adapters.tables import events
from services.meter.core.day import Day
from services.meter.core.machine_audit import FASTEST, SKEW_SECONDS, GenerationUsage

EDGE_SECONDS = 3600.0
"""How long after midnight a request that was running then may end."""
MAX_CHOICES = 128
"""OpenAI's own limit of `n`."""
PACE_SECONDS, PACE_TOKENS = 0.25, 32
"""Seconds and tokens; a shorter stream says nothing about an engine's pace."""


def within_day(day: Day, column: ColumnElement[Any], unit: int = 1) -> ColumnElement[bool]:
    return and_(column >= int(day.start) // unit, column < int(day.end) // unit)


async def read_moved_requests(connection: AsyncConnection, day: Day, earliest: float) -> dict[str, dict[str, Any]]:
    """Return, by machine, the requests that failed over from it to another."""
    e = events.c
    prompt = case((e.prompt_tokens > 0, e.prompt_tokens), else_=e.body_bytes)
    sums = (func.count(), func.sum(prompt * _choices()), *_answers(e.moved_from.is_not(None), _choices()))
    query = select(e.moved_from, *sums).where(
        e.completed_at >= earliest, e.completed_at < day.end + EDGE_SECONDS, e.moved_from.is_not(None)
    )
    return {
        machine: {
            "moved": int(count),
            "moved_prompts": int(prompts),
            "moved_seconds": float(seconds),
            "moved_limited_seconds": float(limited),
            "moved_limit": float(limit),
        }
        for machine, count, prompts, seconds, limited, limit in await connection.execute(query.group_by(e.moved_from))
    }


def _choices() -> ColumnElement[Any]:
    """Return how many answers an engine may have worked on: it rejects more."""
    c = events.c.choices
    return case((c > MAX_CHOICES, MAX_CHOICES), (c < 1, 1), else_=c)


def _seconds() -> ColumnElement[Any]:
    """Return how long an engine may have worked on a request: it notices a disconnect a moment later."""
    e = events.c
    return e.duration - e.wake_wait + SKEW_SECONDS


def _answers(condition: ColumnElement[bool], choices: ColumnElement[Any]) -> tuple[ColumnElement[Any], ...]:
    """Return the seconds of answers without a limit, of those with one, and the tokens of these limits."""
    limit, seconds = events.c.max_tokens, _seconds()
    in_time = FASTEST * seconds  # a higher limit limits nothing
    return (
        _sum(and_(condition, limit == 0), seconds * choices),
        _sum(and_(condition, limit > 0), seconds * choices),
        _sum(and_(condition, limit > 0), case((limit < in_time, limit), else_=in_time) * choices),
    )


async def read_usage(connection: AsyncConnection, day: Day, earliest: float) -> defaultdict[str, list[GenerationUsage]]:
    """Return each machine's usage in one pass over the events, joined with the readings of their generation."""
    e, d = events.c, engine_days.c
    tokens = e.prompt_tokens + e.completion_tokens
    begun = e.completed_at - e.duration + e.wake_wait
    today = within_day(day, e.completed_at)
    covered = and_(d.last_at.is_not(None), e.completed_at <= d.last_at, e.completed_at > d.since)
    edge = or_(
        and_(begun < d.last_at + SKEW_SECONDS, e.completed_at > d.last_at - SKEW_SECONDS),
        and_(d.since.is_not(None), ~d.whole, begun < d.since + SKEW_SECONDS, e.completed_at > d.since - SKEW_SECONDS),
    )
    refused = and_(e.outcome == "failed", e.status >= 400, e.status < 500)  # it cost the engine no work
    left = and_(
        or_(e.basis != "engine", e.outcome.in_(("client_closed", "engine_lost", "failed"))),
        ~refused,
    )
    # Without readings, `covered` is NULL: neither it nor its negation holds.
    is_covered: ColumnElement[bool] = func.coalesce(covered, literal(value=False))
    columns = {
        "requests": _sum(today, literal(1)),
        "tokens": _sum(today, tokens),
        "read": _sum(is_covered, tokens),
        "straddling": _sum(edge, tokens),
        "unread": _sum(and_(today, ~is_covered), tokens),
        "uncertain": _sum(and_(is_covered, left), literal(1)),
        "left_prompt": _sum(and_(is_covered, left), e.prompt_tokens),
        "left_completion": _sum(and_(is_covered, left), e.completion_tokens),
        "left_unknown": _sum(and_(is_covered, left, e.prompt_tokens == 0, e.body_bytes == 0), _choices()),
        "left_bytes": _sum(and_(is_covered, left, e.prompt_tokens == 0), e.body_bytes * _choices()),
        "choices": _sum(and_(is_covered, e.outcome != "failed"), _choices() - 1),
        "choice_prompts": _sum(and_(is_covered, e.outcome != "failed"), (_choices() - 1) * e.prompt_tokens),
        "largest": func.max(tokens),
        "largest_prompt": func.max(e.prompt_tokens),
    }
    measures = {"pace": _pace(is_covered)}
    of_left = _answers(and_(is_covered, left), _choices())
    of_choices = _answers(and_(is_covered, ~left, e.outcome != "failed"), _choices() - 1)
    for what, three in (("left", of_left), ("choice", of_choices)):
        measures |= zip((f"{what}_seconds", f"{what}_limited_seconds", f"{what}_limit"), three, strict=True)
    query = (
        select(e.machine, e.generation, *(c.label(n) for n, c in (columns | measures).items()))
        .select_from(events)
        .outerjoin(engine_days, and_(d.day == day.name, d.machine == e.machine, d.generation == e.generation))
        .where(e.completed_at >= earliest - SKEW_SECONDS, e.completed_at < day.end + EDGE_SECONDS)
        .group_by(e.machine, e.generation)
    )
    usage: defaultdict[str, list[GenerationUsage]] = defaultdict(list)
    for row in await connection.execute(query):
        generation = GenerationUsage(
            machine=row.machine,
            generation=row.generation,
            **{name: int(getattr(row, name)) for name in columns},
            **{name: getattr(row, name) for name in measures},
        )
        if generation.requests or generation.read:
            usage[row.machine].append(generation)
    return usage


def _pace(is_covered: ColumnElement[bool]) -> ColumnElement[Any]:
    """Return tokens per second of the fastest complete stream that is long enough to measure."""
    e = events.c
    seconds = e.duration - e.wake_wait - e.first_token
    long = and_(seconds >= PACE_SECONDS, e.completion_tokens >= PACE_TOKENS)
    whole = and_(is_covered, e.outcome == "completed", e.basis == "engine", e.streamed, long)
    return func.max(case((whole, e.completion_tokens / (seconds * _choices()))))


def _sum(condition: ColumnElement[bool], value: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.sum(case((condition, value), else_=0))
