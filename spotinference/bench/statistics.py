"""What the shots of a run come to: exact quantiles, and rates that are ratios of sums."""

import math
from collections.abc import Iterable, Sequence

from shared.messages.bench import Side
from shared.messages.meter_figures import Spread
from spotinference.bench.streamed_request import Shot


def spread(values: Iterable[float]) -> Spread | None:
    found = sorted(values)
    if not found:
        return None
    p50, p95, p99 = (found[math.floor(q * (len(found) - 1))] for q in (0.5, 0.95, 0.99))
    return Spread(count=len(found), mean=math.fsum(found) / len(found), p50=p50, p95=p95, p99=p99)


def side(rounds: Sequence[Sequence[Shot]], cpu_seconds: float) -> Side:
    """Of all rounds through one way; each is its requests, none where the run was stopped."""
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
        stream_rate=spread(1 / pace for pace in paces),
        ttft=spread(first_token(shot) for shot in good),
        tpot=spread(paces),
        client_cpu=cpu_seconds / seconds if seconds > 0 else 0.0,
    )


def first_token(shot: Shot) -> float:
    """Seconds; of a shot that succeeded."""
    assert shot.first is not None
    return shot.first - shot.sent


def seconds_per_token(shot: Shot) -> float | None:
    """After the first one; None where nothing followed it."""
    if shot.first is None or shot.completion_tokens < 2 or shot.ended <= shot.first:
        return None
    return (shot.ended - shot.first) / (shot.completion_tokens - 1)


def added(pairs: Iterable[tuple[Shot, Shot]]) -> Spread | None:
    """Seconds that the first of each pair, which went through the gateway, waited longer for its first token."""
    return spread(first_token(a) - first_token(b) for a, b in pairs if a.fault is None and b.fault is None)
