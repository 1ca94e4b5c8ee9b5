"""Which numbers of a source have arrived: disjoint runs of them, the mark they give, the gaps between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DAY = 86400.0


@dataclass(frozen=True, kw_only=True, order=True)
class Run:
    """Every `source_seq` from `first` to `last` is in the ledger. `first_at`, `last_at`: when those two completed."""

    first: int
    last: int
    first_at: float
    last_at: float


@dataclass(frozen=True, kw_only=True)
class Gap:
    """`missing` numbers that have not arrived; their requests completed from `earliest` to `latest` (Unix seconds)."""

    missing: int
    earliest: float
    latest: float


def single(source_seq: int, at: float) -> Run:
    return Run(first=source_seq, last=source_seq, first_at=at, last_at=at)


def merged(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The same numbers in as few runs as there can be, sorted. Order and repetition of `runs` do not matter."""
    found: list[Run] = []
    for run in sorted(runs):
        if found and run.first <= found[-1].last + 1:
            found[-1] = _joined(found[-1], run)
        else:
            found.append(run)
    return tuple(found)


def _joined(left: Run, right: Run) -> Run:
    last, last_at = max((left.last, left.last_at), (right.last, right.last_at))
    return Run(first=left.first, last=last, first_at=left.first_at, last_at=last_at)


def mark(runs: Sequence[Run]) -> int:
    """The highest number up to which nothing is missing; `runs` is merged."""
    return runs[0].last if runs and runs[0].first == 1 else 0


def gaps(runs: Sequence[Run]) -> tuple[Gap, ...]:
    """What is missing between merged runs. Behind the last one nothing is known to be missing.

    Sources number their events as they complete. What a source did before its first known event is taken to be
    at most a day older.
    """
    found: list[Gap] = []
    known, earliest = 0, 0.0
    for run in runs:
        if run.first > known + 1:
            since = earliest if known else run.first_at - DAY
            found.append(Gap(missing=run.first - known - 1, earliest=since, latest=run.first_at))
        known, earliest = run.last, run.last_at
    return tuple(found)
