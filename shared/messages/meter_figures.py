"""The service's throughput and latency, computed from its usage events."""

import msgspec

from shared.messages.codec import Message
from shared.messages.values import UnixSeconds


class FiguresQuery(Message, frozen=True, kw_only=True, tag="figures_query.v1"):
    """Request on `meter.figures`: the requests that completed from `start` to `end`, end exclusive.

    Both are whole hours, in Unix seconds.
    """

    start: UnixSeconds
    end: UnixSeconds
    by: tuple[str, ...] = ("tier", "model")
    """Any of `tier`, `model`, `day` (`YYYY-MM-DD`), `hour` (RFC 3339)."""
    tier: str | None = None
    """Only this one."""
    model: str | None = None


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """The distribution of one metric over requests. Quantiles are within `relative_error`, the mean is exact."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens per second of all requests together, over the minutes with completed requests; exact.

    A request's tokens count in the minute in which it completed.
    """

    minutes: int
    tokens: int
    """Tokens in all these minutes."""
    p50: float
    p95: float
    peak: float


class FiguresRow(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics under one combination of the requested dimensions."""

    dimensions: dict[str, str]
    measures: dict[str, Spread]
    """`ttft`, `ttft_warm`, `ttft_cold`, `tpot`, `wake_wait`, `overhead` in seconds, `stream_rate` in tokens per second;
    only those with data. `ttft` leaves a wait for a wake out. The requests that waited for one are `ttft_cold`, with
    that wait, the others are `ttft_warm`."""
    output: Pace | None
    """Completion tokens."""
    total: Pace | None
    """Prompt and completion tokens."""


class Figures(Message, frozen=True, kw_only=True, tag="figures.v1"):
    """Answer on `meter.figures`."""

    start: UnixSeconds
    end: UnixSeconds
    relative_error: float
    rows: tuple[FiguresRow, ...]
