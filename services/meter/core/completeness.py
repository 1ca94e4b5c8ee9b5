"""How far each source is known: what is missing of it, and whether a day may still get something from it.

A source numbers its events in the order in which they complete, and says of itself how far it has written (`Activity`).
It has nothing more for a day when

- an event of it that completed after the day is here, or
- everything that it said it wrote is here, and it has since said its last word, or was heard after the day's end, or
- nothing was heard of it for as long as the configuration says (`meter.source_silence`): it has ended.

What is missing of a source that ended stays missing until it comes, or until somebody declares it lost.

A ledger that was restored from an older copy lacks events that it had confirmed. Gateways have forgotten these, so they
are missing at once, and only the stream can still have them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from services.meter.core.sequence_ranges import DAY, Gap, SeqRange, gaps_between, subtract_lost

SETTLING_SECONDS = 60.0
"""For events on their way when a day ended or a source fell silent, and clocks that differ."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the ledger has of a source, all as of one moment; times are Unix seconds."""

    name: str
    runs: tuple[SeqRange, ...] = ()
    """Merged. Only the last one where nothing is missing before it."""
    lost: tuple[tuple[int, int], ...] = ()
    """Declared so: first and last numbers."""
    seen_at: float
    """When an event of it last came."""
    written: int = 0
    """As it said itself when it was last heard; 0: it never did."""
    heard_at: float | None = None
    left: bool = False
    confirmed: int = 0
    """The bus says that this ledger confirmed everything up to here; 0: nothing beyond what it has."""
    confirmed_at: float = 0.0
    lacking_since: float = 0.0
    """What it lacks of the confirmed events completed after this moment."""
    sought: int = 0
    """Up to here the stream was searched for confirmed events that are missing."""

    @property
    def last(self) -> int:
        return self.runs[-1].last if self.runs else 0

    @property
    def last_at(self) -> float:
        return self.runs[-1].last_at if self.runs else float("-inf")

    @property
    def spoke_at(self) -> float:
        return max(self.seen_at, self.heard_at or 0.0)


def find_gaps(source: Source, now: float) -> tuple[Gap, ...]:
    """Its open gaps. What it wrote last is missing once it was silent long enough for it to have come."""
    found = gaps_between(source.runs)
    if source.confirmed:  # it may be older than a source's first gap is taken to be
        found = tuple(replace(g, earliest=min(g.earliest, source.lacking_since)) if g.first == 1 else g for g in found)
    end = source.confirmed
    if now - source.spoke_at > SETTLING_SECONDS:
        end = max(end, source.written)
    if end > source.last:
        begun = source.lacking_since if source.confirmed else source.spoke_at - DAY
        latest = max(source.spoke_at, source.confirmed_at)
        earliest = min(source.last_at, latest) if source.runs else begun
        found += (Gap(first=source.last + 1, last=end, earliest=earliest, latest=latest),)
    return subtract_lost(found, source.lost)


def count_behind(source: Source, now: float) -> int:
    """How many confirmed events are missing that the stream may still have."""
    if source.sought >= source.confirmed:
        return 0
    return sum(max(0, min(gap.last, source.confirmed) - gap.first + 1) for gap in find_gaps(source, now))


def open_end_reasons(sources: Iterable[Source], end: float, now: float, silence: float) -> Iterator[str]:
    """Why a day that ended at `end` may still get events, source by source."""
    for source in sources:
        if source.last_at >= end:
            continue
        newest = max(source.written, source.confirmed)
        tail = [(source.last + 1, newest)] if newest > source.last else []
        coming = subtract_lost((Gap(first=f, last=t, earliest=0, latest=0) for f, t in tail), source.lost)
        if coming:
            count = sum(gap.missing for gap in coming)
            yield f"{source.name} wrote {count} more than have come: start it again with its data directory"
        elif not _has_ended(source, end, now, silence):
            yield f"{source.name} was last heard before the end: it has ended once it is silent for {silence:.0f} s"


def _has_ended(source: Source, end: float, now: float, silence: float) -> bool:
    heard = source.heard_at is not None and source.heard_at >= end + SETTLING_SECONDS
    return source.left or heard or now - source.spoke_at >= silence


def join_names(found: Sequence[str], most: int = 5) -> str:
    """Some of many, for a sentence."""
    more = len(found) - most
    return ", ".join(found[:most]) + (f" and {more} more" if more > 0 else "")
