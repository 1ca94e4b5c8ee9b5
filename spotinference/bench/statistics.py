"""The statistics of a run: exact quantiles, and rates that are ratios of sums."""

import math
from collections.abc import Iterable, Sequence

from shared.messages.bench import Side
from shared.messages.meter_figures import Spread
from shared.percentiles import nearest_rank
from spotinference.bench.streamed_request import TimedRequest


def summarize(values: Iterable[float]) -> Spread | None:
    ordered = sorted(values)
    if not ordered:
        return None
    p50, p95, p99 = (ordered[nearest_rank(q, len(ordered))] for q in (0.5, 0.95, 0.99))
    return Spread(count=len(ordered), mean=math.fsum(ordered) / len(ordered), p50=p50, p95=p95, p99=p99)


def summarize_side(rounds: Sequence[Sequence[TimedRequest]], cpu_seconds: float) -> Side:
    """Summarize all rounds through the gateway, or directly. A round has no requests if the run was stopped."""
    shots = [shot for one in rounds for shot in one]
    good = [shot for shot in shots if shot.fault is None]
    seconds = sum(max(s.ended for s in one) - min(s.sent for s in one) for one in rounds if one)
    tokens = sum(shot.completion_tokens for shot in good)
    paces = [pace for shot in good if (pace := seconds_per_token(shot)) is not None]
    return Side(
        requests=len(shots),
        failed=len(shots) - len(good),
        seconds=seconds,
        prompt_tokens=sum(shot.prompt_tokens for shot in good),
        completion_tokens=tokens,
        rate=tokens / seconds if seconds > 0 else 0.0,
        stream_rate=summarize(1 / pace for pace in paces),
        ttft=summarize(time_to_first_token(shot) for shot in good),
        tpot=summarize(paces),
        client_cpu=cpu_seconds / seconds if seconds > 0 else 0.0,
    )


def time_to_first_token(shot: TimedRequest) -> float:
    """Return the seconds to the first token of a request that succeeded."""
    assert shot.first is not None
    return shot.first - shot.sent


def seconds_per_token(shot: TimedRequest) -> float | None:
    """Return the seconds per token after the first one; None if no token followed."""
    if shot.first is None or shot.completion_tokens < 2 or shot.ended <= shot.first:
        return None
    return (shot.ended - shot.first) / (shot.completion_tokens - 1)


def added_latency(pairs: Iterable[tuple[TimedRequest, TimedRequest]]) -> Spread | None:
    """Summarize the seconds that the gateway added to the first token. The first of each pair went through it."""
    return summarize(
        time_to_first_token(a) - time_to_first_token(b) for a, b in pairs if a.fault is None and b.fault is None
    )
