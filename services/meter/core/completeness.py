"""How complete each source is: which of its events are missing, and whether a day may still get some.

A source numbers its events in the order in which they complete, and its heartbeats say how many it has written. It has
nothing more for a day when

- the ledger has an event of it that completed after the day, or
- the ledger has everything that it wrote, and it has since left or sent a heartbeat after the day's end, or
- it has been silent for as long as the configuration says (`meter.source_silence`): it has ended.

What is missing from a source that has ended stays missing until it arrives, or until an operator declares it lost.

A ledger that was restored from an older copy lacks events that it had confirmed. Gateways have forgotten these, so they
are missing at once, and only the stream can still have them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from services.meter.core.sequence_ranges import Gap, SeqRange, gaps_between, subtract_lost
from shared.units import DAY_S

SETTLING_SECONDS = 60.0
"""Seconds for events in flight when a day ended or a source fell silent, and for clocks that differ."""
SEARCH_MARGIN_SECONDS = 3600.0
"""How far the clocks of gateways, bus and meter may differ: ten times what the meter lets a gateway be ahead."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What a source said about itself, and when it arrived (Unix seconds)."""

    written: int
    """The number of its newest event; 0: none, or it did not say."""
    received_at: float
    left: bool
    """Whether it was its last heartbeat."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the ledger has of a source, all as of one moment; times are Unix seconds."""

    name: str
    ranges: tuple[SeqRange, ...] = ()
    """Merged. Only the last one if nothing is missing before it."""
    lost: tuple[tuple[int, int], ...] = ()
    """First and last numbers that were declared lost."""
    seen_at: float
    """When its last event arrived."""
    written: int = 0
    """The number of its newest event by its last heartbeat; 0: it never said."""
    heartbeat_at: float | None = None
    left: bool = False
    confirmed: int = 0
    """The bus says that this ledger confirmed everything up to this number; 0: nothing beyond what it has."""
    confirmed_at: float = 0.0
    lacking_since: float = 0.0
    """The confirmed events that are missing completed after this moment."""
    searched: int = 0
    """The stream was searched for missing confirmed events up to this number."""

    @property
    def last(self) -> int:
        return self.ranges[-1].last if self.ranges else 0

    @property
    def last_at(self) -> float:
        return self.ranges[-1].last_at if self.ranges else float("-inf")

    @property
    def active_at(self) -> float:
        """When anything last arrived from it."""
        return max(self.seen_at, self.heartbeat_at or 0.0)


def find_gaps(source: Source, now: float) -> tuple[Gap, ...]:
    """Return its open gaps. Its newest events count as missing once it was silent long enough for them to arrive."""
    gaps = gaps_between(source.ranges)
    if source.confirmed:  # it may be older than the assumed start of a source's first gap
        gaps = tuple(replace(g, earliest=min(g.earliest, source.lacking_since)) if g.first == 1 else g for g in gaps)
    end = source.confirmed
    if now - source.active_at > SETTLING_SECONDS:
        end = max(end, source.written)
    if end > source.last:
        begun_at = source.lacking_since if source.confirmed else source.active_at - DAY_S
        latest = max(source.active_at, source.confirmed_at)
        earliest = min(source.last_at, latest) if source.ranges else begun_at
        gaps += (Gap(first=source.last + 1, last=end, earliest=earliest, latest=latest),)
    return subtract_lost(gaps, source.lost)


def count_missing(source: Source) -> int:
    """Return how many events it said it wrote that the ledger lacks, those under way included, without lost ones."""
    gaps = gaps_between(source.ranges)
    if source.written > source.last:
        gaps += (Gap(first=source.last + 1, last=source.written, earliest=0, latest=0),)
    return sum(gap.missing for gap in subtract_lost(gaps, source.lost))


def count_behind(source: Source, now: float) -> int:
    """Return how many confirmed events are missing that the stream may still have."""
    if source.searched >= source.confirmed:
        return 0
    return sum(max(0, min(gap.last, source.confirmed) - gap.first + 1) for gap in find_gaps(source, now))


def search_start(sources: Sequence[Source]) -> float | None:
    """Return since when the stream may hold what is missing (Unix seconds); None: from its beginning.

    An event is stored after it completed, and a source's events complete in the order of their numbers.
    """
    moments = [
        source.ranges[0].last_at if source.ranges and source.ranges[0].first == 1 else source.lacking_since
        for source in sources
    ]
    earliest = min(moments, default=0.0) - SEARCH_MARGIN_SECONDS
    return earliest if earliest > 0 else None


def open_end_reasons(sources: Iterable[Source], end: float, now: float, source_silence_s: float) -> Iterator[str]:
    """Yield why a day that ended at `end` may still get events, source by source."""
    for source in sources:
        if source.last_at >= end:
            continue
        newest = max(source.written, source.confirmed)
        tail = [(source.last + 1, newest)] if newest > source.last else []
        pending = subtract_lost((Gap(first=f, last=t, earliest=0, latest=0) for f, t in tail), source.lost)
        if pending:
            count = sum(gap.missing for gap in pending)
            yield f"{source.name} wrote {count} more events than have arrived: restart it with its data directory"
        elif not _has_ended(source, end, now, source_silence_s):
            yield (
                f"{source.name} was last active before the day's end: "
                f"it counts as ended once it is silent for {source_silence_s:.0f} s"
            )


def _has_ended(source: Source, end: float, now: float, source_silence_s: float) -> bool:
    was_active_after = source.heartbeat_at is not None and source.heartbeat_at >= end + SETTLING_SECONDS
    return source.left or was_active_after or now - source.active_at >= source_silence_s


def join_names(names: Sequence[str], limit: int = 5) -> str:
    """Return the first of many names, for a sentence."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
