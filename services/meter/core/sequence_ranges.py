"""Which numbers of a source have arrived: disjoint runs of them, the mark they give, the gaps between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

DAY = 86400.0


@dataclass(frozen=True, kw_only=True, order=True)
class SeqRange:
    """Every `source_seq` from `first` to `last` is in the ledger. `first_at`, `last_at`: when those two completed."""

    first: int
    last: int
    first_at: float
    last_at: float


@dataclass(frozen=True, kw_only=True)
class Gap:
    """`first` to `last` have not arrived; their requests completed from `earliest` to `latest` (Unix seconds)."""

    first: int
    last: int
    earliest: float
    latest: float

    @property
    def missing(self) -> int:
        return self.last - self.first + 1


def single_range(source_seq: int, at: float) -> SeqRange:
    return SeqRange(first=source_seq, last=source_seq, first_at=at, last_at=at)


def merge_ranges(runs: Iterable[SeqRange]) -> tuple[SeqRange, ...]:
    """The same numbers in as few runs as there can be, sorted. Order and repetition of `runs` do not matter."""
    found: list[SeqRange] = []
    for run in sorted(runs):
        if found and run.first <= found[-1].last + 1:
            found[-1] = _joined(found[-1], run)
        else:
            found.append(run)
    return tuple(found)


def _joined(left: SeqRange, right: SeqRange) -> SeqRange:
    last, last_at = max((left.last, left.last_at), (right.last, right.last_at))
    return SeqRange(first=left.first, last=last, first_at=left.first_at, last_at=last_at)


def high_water_mark(runs: Sequence[SeqRange]) -> int:
    """The highest number up to which nothing is missing; `runs` is merged."""
    return runs[0].last if runs and runs[0].first == 1 else 0


def gaps_between(runs: Sequence[SeqRange]) -> tuple[Gap, ...]:
    """What is missing between merged runs. Behind the last one nothing is known to be missing.

    Sources number their events as they complete. What a source did before its first known event is taken to be
    at most a day older.
    """
    found: list[Gap] = []
    known, earliest = 0, 0.0
    for run in runs:
        if run.first > known + 1:
            since = earliest if known else run.first_at - DAY
            # A clock that was wrong may have put the one before it behind the one after it.
            earlier, later = sorted((since, run.first_at))
            found.append(Gap(first=known + 1, last=run.first - 1, earliest=earlier, latest=later))
        known, earliest = run.last, run.last_at
    return tuple(found)


def subtract_lost(found: Iterable[Gap], lost: Iterable[tuple[int, int]]) -> tuple[Gap, ...]:
    """What is left of gaps beyond the numbers, each first and last, that are declared lost."""
    left = list(found)
    for first, last in lost:
        parts = [(gap, (gap.first, min(gap.last, first - 1))) for gap in left]
        parts += [(gap, (max(gap.first, last + 1), gap.last)) for gap in left]
        left = sorted({replace(gap, first=f, last=t) for gap, (f, t) in parts if f <= t}, key=lambda gap: gap.first)
    return tuple(left)
