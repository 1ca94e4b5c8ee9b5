"""Usage events as spans and histograms by OpenTelemetry's conventions for generative AI.

https://opentelemetry.io/docs/specs/semconv/gen-ai. They contain what the ledger has, so neither prompts nor keys. What
the conventions have no name for is under `spotinference.`.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from services.meter.core.otlp import (
    SPAN_KIND_CLIENT,
    STATUS_ERROR,
    Histogram,
    HistogramPoint,
    Metric,
    Span,
    Status,
    Value,
    attributes,
    unix_nano,
)
from shared.messages.gateway import UsageEvent

PROVIDER = "spotinference"
UNKNOWN_OPERATION = "unknown"
"""Of events of older gateways, which did not name it."""
MAX_SERIES = 2000
"""Attribute sets of one histogram; further ones are counted together, as OpenTelemetry's SDKs do."""
OVERFLOW: tuple[tuple[str, Value], ...] = (("otel.metric.overflow", True),)

_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

Series = tuple[tuple[str, Value], ...]
"""The attributes of one series of a histogram."""


@dataclass(frozen=True)
class _Instrument:
    name: str
    unit: str
    description: str
    bounds: tuple[float, ...]


TOKEN_USAGE = _Instrument("gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", _TOKENS)
DURATION = _Instrument(
    "gen_ai.client.operation.duration", "s", "From a request's arrival, with its wait for a wake.", _SECONDS
)
SERVER_DURATION = _Instrument(
    "gen_ai.server.request.duration", "s", "From forwarding a request to an engine until its end.", _SECONDS
)
FIRST_TOKEN = _Instrument(
    "gen_ai.server.time_to_first_token", "s", "From forwarding a request until its stream's first byte.", _FIRST_TOKEN
)
PER_TOKEN = _Instrument(
    "gen_ai.server.time_per_output_token", "s", "Time per output token after the first one.", _PER_TOKEN
)
INSTRUMENTS = (TOKEN_USAGE, DURATION, SERVER_DURATION, FIRST_TOKEN, PER_TOKEN)


def error_type(event: UsageEvent) -> str | None:
    """Return what went wrong on our side; None if nothing did, or if the client left."""
    if event.outcome == "failed":
        return str(event.status) if event.status >= 400 else "failed"
    return "engine_lost" if event.outcome == "engine_lost" else None


def span_of(event: UsageEvent) -> Span:
    """Return the span of a request, from its arrival to its end. The same event always gives the same ids."""
    error, has_tokens = error_type(event), event.basis != "none"
    first_chunk = None if event.first_token is None else event.wake_wait + event.first_token
    return Span(
        trace_id=_trace_id(event.id),
        span_id=sha256(event.id.encode()).hexdigest()[:16],
        name=f"{event.operation or UNKNOWN_OPERATION} {event.model}",
        kind=SPAN_KIND_CLIENT,
        start_time_unix_nano=unix_nano(max(0.0, event.completed_at - event.duration)),
        end_time_unix_nano=unix_nano(event.completed_at),
        status=Status() if error is None else Status(STATUS_ERROR, event.outcome),
        attributes=attributes(
            {
                **_operation(event),
                "error.type": error,
                "gen_ai.request.stream": event.streamed or None,
                "gen_ai.request.choice.count": event.choices if event.choices != 1 else None,
                "gen_ai.request.max_tokens": event.max_tokens or None,
                "gen_ai.response.time_to_first_chunk": first_chunk if event.streamed else None,
                "gen_ai.usage.input_tokens": event.prompt_tokens if has_tokens else None,
                "gen_ai.usage.output_tokens": event.completion_tokens if has_tokens else None,
                "gen_ai.usage.cache_read.input_tokens": event.cached_tokens if has_tokens else None,
                "gen_ai.usage.reasoning.output_tokens": event.reasoning_tokens or None,
                "http.response.status_code": event.status or None,
                "spotinference.request.id": event.id,
                "spotinference.key.id": event.key_id,
                "spotinference.tier": event.tier,
                "spotinference.machine": event.machine,
                "spotinference.generation": event.generation,
                "spotinference.outcome": event.outcome,
                "spotinference.usage.basis": event.basis,
                "spotinference.wake.id": event.wake_id or None,
                "spotinference.wake.wait": event.wake_wait or None,
                "spotinference.overhead": event.overhead,
                "spotinference.moved_from": event.moved_from,
            }
        ),
    )


def _operation(event: UsageEvent) -> dict[str, Value]:
    return {
        "gen_ai.operation.name": event.operation or UNKNOWN_OPERATION,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": event.model,
    }


def _trace_id(event_id: str) -> str:
    """Return a UUID as it is, so that a request is found by its id, and anything else as a hash."""
    digits = event_id.replace("-", "").lower()
    is_uuid = re.fullmatch(r"[0-9a-f]{32}", digits) and int(digits, 16)
    return digits if is_uuid else sha256(event_id.encode()).hexdigest()[:32]


@dataclass
class _Counts:
    buckets: list[int]
    total: float = 0.0


@dataclass
class UsageHistograms:
    """Adds up events since `started_at` (Unix seconds). Its size is bounded."""

    started_at: float
    _series: dict[_Instrument, dict[Series, _Counts]] = field(
        default_factory=lambda: {instrument: {} for instrument in INSTRUMENTS}
    )

    @property
    def is_empty(self) -> bool:
        return not self._series[DURATION]

    def add(self, events: Iterable[UsageEvent]) -> None:
        for event in events:
            for instrument, series, value in _measurements(event):
                counts = self._find(instrument, series)
                counts.buckets[bisect_left(instrument.bounds, value)] += 1
                counts.total += value

    def collect(self, now: float) -> list[Metric]:
        """Return every histogram that has counted something."""
        start, end = unix_nano(self.started_at), unix_nano(now)
        return [
            Metric(
                name=instrument.name,
                description=instrument.description,
                unit=instrument.unit,
                histogram=Histogram(data_points=list(_points(instrument, series, start, end))),
            )
            for instrument, series in self._series.items()
            if series
        ]

    def _find(self, instrument: _Instrument, key: Series) -> _Counts:
        series = self._series[instrument]
        counts = series.get(key)
        if counts is None:
            key = key if len(series) < MAX_SERIES else OVERFLOW
            counts = series.setdefault(key, _Counts([0] * (len(instrument.bounds) + 1)))
        return counts


def _points(
    instrument: _Instrument, series: Mapping[Series, _Counts], start: str, end: str
) -> Iterator[HistogramPoint]:
    for key, counts in series.items():
        yield HistogramPoint(
            attributes=attributes(dict(key)),
            start_time_unix_nano=start,
            time_unix_nano=end,
            count=str(sum(counts.buckets)),
            sum=counts.total,
            bucket_counts=[str(count) for count in counts.buckets],
            explicit_bounds=instrument.bounds,
        )


def _measurements(event: UsageEvent) -> Iterator[tuple[_Instrument, Series, float]]:
    operation: Series = tuple(_operation(event).items())
    error = error_type(event)
    timed: Series = operation if error is None else (*operation, ("error.type", error))
    if event.basis != "none":
        for kind, tokens in (("input", event.prompt_tokens), ("output", event.completion_tokens)):
            yield TOKEN_USAGE, (*operation, ("gen_ai.token.type", kind)), tokens
    yield DURATION, timed, event.duration
    engine_s = event.duration - event.wake_wait
    yield SERVER_DURATION, timed, max(0.0, engine_s - event.overhead)
    if event.outcome == "completed" and event.streamed and event.first_token is not None:
        yield FIRST_TOKEN, operation, max(0.0, event.first_token - event.overhead)
        if event.completion_tokens > 1:
            yield PER_TOKEN, operation, max(0.0, engine_s - event.first_token) / (event.completion_tokens - 1)
