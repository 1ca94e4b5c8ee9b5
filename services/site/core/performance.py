"""What the performance page says: measured runs and live traffic, apart, each with how far it can be trusted."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from shared.messages.bench import BenchRun
from shared.messages.codec import rfc3339
from shared.messages.meter_figures import Figures, FiguresRow, Spread
from shared.units import DAY_S

LEAST_RUNS = 3
"""Published runs of a model and tier from which one figure is more than an experiment."""
LEAST_REQUESTS = 100
"""Requests behind each figure of a row from which it is more than an experiment."""
LONGEST_AGE_S = 30 * DAY_S
"""How old the newest run may be: engines, drivers and models change."""
LIVE_DAYS = 7
"""How many UTC days live figures cover, today included."""
Certainty = Literal["measured", "experimental"]


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """The distribution of one figure over `count` requests."""

    count: int
    p50: float
    p95: float


class MeasuredRun(msgspec.Struct, frozen=True, kw_only=True):
    """The newest published run of a model and tier."""

    model: str
    tier: str | None
    day: str
    published_day: str
    certainty: Certainty
    runs: int
    """Published runs of this model and tier within the last 30 days."""
    streams: int
    """At once, on each side."""
    requests: int
    failed: int
    prompt_tokens: int
    """Of one request, about."""
    most_tokens: int
    """Tokens asked of one request, at most."""
    tokens_per_second: float
    """Completion tokens of all streams together, through the gateway."""
    direct_tokens_per_second: float
    stream_tokens_per_second: Measure | None
    """Of one stream after its first token, through the gateway."""
    ttft_seconds: Measure | None
    """Through the gateway."""
    added_seconds: Measure | None
    """What the gateway added to the first token."""
    engine: str
    gateway_version: str


class FirstToken(msgspec.Struct, frozen=True, kw_only=True):
    """How long streams of live traffic took to their first token, as their clients saw it.

    `warm`: a machine was ready; `cold`: the request was held for a wake, which is in it.
    """

    tier: str
    model: str
    kind: Literal["warm", "cold"]
    certainty: Certainty
    seconds: Measure


class LiveFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Live traffic of a model on a tier; of one day where `day` is set."""

    model: str
    tier: str
    certainty: Certainty
    day: str | None = None
    stream_tokens_per_second: Measure | None = None
    ttft_seconds: Measure | None = None
    overhead_seconds: Measure | None = None
    """What the gateway added: from the whole request to the engine's connection, and per chunk."""
    busiest_tokens_per_second: float | None = None
    """Completion tokens of all requests together in the busiest minute."""
    minutes: int = 0
    """Minutes in which requests completed: the load behind these figures."""


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """The performance page."""

    as_of: str
    runs: tuple[MeasuredRun, ...]
    live_fault: str | None
    """Why there are no live figures; None: the ledger answered."""
    first_day: str
    last_day: str
    """Of the live figures."""
    relative_error: float | None
    """Of the live percentiles."""
    live: tuple[LiveFigures, ...]
    first_tokens: tuple[FirstToken, ...]
    days: tuple[LiveFigures, ...]
    """`live` by day, oldest first."""

    def first_tokens_by_day(self, row: LiveFigures) -> list[tuple[str, Measure | None]]:
        """Return the days of a row's tier and model, and the time to the first token on each."""
        return [(d.day or "", d.ttft_seconds) for d in self.days if (d.tier, d.model) == (row.tier, row.model)]


def newest_runs(published: Iterable[BenchRun], now: float) -> tuple[MeasuredRun, ...]:
    """Return the newest published run of each model and tier. Runs that were not published do not count."""
    groups: defaultdict[tuple[str, str], list[BenchRun]] = defaultdict(list)
    for run in published:
        if run.published_at is not None:
            groups[run.model, run.tier or ""].append(run)
    return tuple(_measured(runs, now) for _, runs in sorted(groups.items()))


def live_figures(answer: Figures) -> tuple[LiveFigures, ...]:
    """Return what the ledger answered by model and tier, and by day if it was asked so."""
    return tuple(_live(row) for row in answer.rows)


def first_tokens(answer: Figures) -> tuple[FirstToken, ...]:
    """Return what the ledger answered by model and tier of the first token, without and with a wake."""
    kinds: tuple[tuple[Literal["warm", "cold"], str], ...] = (("warm", "ttft_warm"), ("cold", "ttft_cold"))
    return tuple(
        FirstToken(
            tier=row.dimensions["tier"],
            model=row.dimensions["model"],
            kind=kind,
            certainty="measured" if measure.count >= LEAST_REQUESTS else "experimental",
            seconds=measure,
        )
        for row in answer.rows
        for kind, name in kinds
        if (measure := _measure(row.measures.get(name))) is not None
    )


def _measured(runs: Sequence[BenchRun], now: float) -> MeasuredRun:
    newest = max(runs, key=lambda run: (run.published_at or 0.0, run.id))
    recent = sum(now - run.at <= LONGEST_AGE_S for run in runs)
    is_sure = recent >= LEAST_RUNS and now - newest.at <= LONGEST_AGE_S
    return MeasuredRun(
        model=newest.model,
        tier=newest.tier,
        day=rfc3339(newest.at)[:10],
        published_day=rfc3339(newest.published_at or 0.0)[:10],
        certainty="measured" if is_sure else "experimental",
        runs=recent,
        streams=newest.load.concurrency,
        requests=newest.gateway.requests,
        failed=newest.gateway.failed,
        prompt_tokens=newest.load.prompt_tokens,
        most_tokens=newest.load.tokens,
        tokens_per_second=newest.gateway.rate,
        direct_tokens_per_second=newest.direct.rate,
        stream_tokens_per_second=_measure(newest.gateway.stream_rate),
        ttft_seconds=_measure(newest.gateway.ttft),
        added_seconds=_measure(newest.added),
        engine=f"{newest.engine} {newest.engine_version}".strip(),
        gateway_version=newest.gateway_version,
    )


def _live(row: FiguresRow) -> LiveFigures:
    names = ("stream_rate", "ttft", "overhead")
    shown = {name: _measure(row.measures.get(name)) for name in names}
    fewest = min((measure.count for measure in shown.values() if measure is not None), default=0)
    return LiveFigures(
        model=row.dimensions["model"],
        tier=row.dimensions["tier"],
        day=row.dimensions.get("day"),
        certainty="measured" if fewest >= LEAST_REQUESTS else "experimental",
        stream_tokens_per_second=shown["stream_rate"],
        ttft_seconds=shown["ttft"],
        overhead_seconds=shown["overhead"],
        busiest_tokens_per_second=row.output.peak if row.output else None,
        minutes=row.output.minutes if row.output else 0,
    )


def _measure(spread: Spread | None) -> Measure | None:
    return None if spread is None else Measure(count=spread.count, p50=spread.p50, p95=spread.p95)
