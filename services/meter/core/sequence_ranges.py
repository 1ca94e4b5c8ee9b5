"""Which numbers of a source have arrived: disjoint ranges, the mark that they give, and the gaps between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from shared.units import DAY_S


@dataclass(frozen=True, kw_only=True, order=True)
class SeqRange:
    """The ledger has every `source_seq` from `first` to `last`; these two completed at `first_at` and `last_at`."""

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


def merge_ranges(ranges: Iterable[SeqRange]) -> tuple[SeqRange, ...]:
    """Return the same numbers in the fewest ranges, sorted. Order and repetition of `ranges` do not matter."""
    merged: list[SeqRange] = []
    for item in sorted(ranges):
        if merged and item.first <= merged[-1].last + 1:
            merged[-1] = _join(merged[-1], item)
        else:
            merged.append(item)
    return tuple(merged)


def _join(left: SeqRange, right: SeqRange) -> SeqRange:
    last, last_at = max((left.last, left.last_at), (right.last, right.last_at))
    return SeqRange(first=left.first, last=last, first_at=left.first_at, last_at=last_at)


def high_water_mark(ranges: Sequence[SeqRange]) -> int:
    """Return the highest number up to which nothing is missing; `ranges` is merged."""
    return ranges[0].last if ranges and ranges[0].first == 1 else 0


def gaps_between(ranges: Sequence[SeqRange]) -> tuple[Gap, ...]:
    """Return what is missing between merged ranges. Nothing is known to be missing after the last one.

    Sources number their events as they complete. What a source did before its first known event is assumed to be at
    most a day older.
    """
    gaps: list[Gap] = []
    last, last_at = 0, 0.0
    for item in ranges:
        if item.first > last + 1:
            since = last_at if last else item.first_at - DAY_S
            # A wrong clock may have put the event before the gap after the event that follows it.
            earliest, latest = sorted((since, item.first_at))
            gaps.append(Gap(first=last + 1, last=item.first - 1, earliest=earliest, latest=latest))
        last, last_at = item.last, item.last_at
    return tuple(gaps)


def subtract_lost(gaps: Iterable[Gap], lost: Iterable[tuple[int, int]]) -> tuple[Gap, ...]:
    """Return what is left of gaps without the numbers, each first and last, that were declared lost."""
    left = list(gaps)
    for first, last in lost:
        parts = [(gap, (gap.first, min(gap.last, first - 1))) for gap in left]
        parts += [(gap, (max(gap.first, last + 1), gap.last)) for gap in left]
        left = sorted({replace(gap, first=f, last=t) for gap, (f, t) in parts if f <= t}, key=lambda gap: gap.first)
    return tuple(left)
