"""One batch of messages: events to count, and messages that cannot be counted, with the reason."""

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import msgspec

from services.meter.core.event_validation import SEQ_LIMIT, clamp_token_counts, event_errors, is_name
from services.meter.core.sequence_ranges import SeqRange, merge_ranges, single_range
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import UsageEvent

AHEAD_SECONDS = 300.0
"""How far a gateway's clock may be ahead of the meter's."""


class QuarantineKind(StrEnum):
    """Why a message is in quarantine."""

    UNREADABLE = "unreadable"
    """It is not a usage event."""
    INVALID = "invalid"
    """A field is out of range."""
    FUTURE = "future"
    """It completed later than now."""
    OLD = "old"
    """It is older than events are kept."""
    UNKNOWN_KEY = "unknown_key"
    """Its key never existed."""
    UNKNOWN_SOURCE = "unknown_source"
    """Its gateway never announced itself."""


@dataclass(frozen=True, kw_only=True)
class CountableEvent:
    """A message and the event in it."""

    event: UsageEvent
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class UncountableMessage:
    """A message that cannot be counted, with `source` and `source_seq` if at least these can be read."""

    payload: bytes
    kind: QuarantineKind
    reason: str
    source: str | None
    source_seq: int | None
    at: float
    """When its request completed, or else when the message arrived: the day whose count lacks it."""
    name: str | None = None
    """The key or the source that is unknown."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    countable: tuple[CountableEvent, ...]
    quarantined: tuple[UncountableMessage, ...]
    received_at: float

    @property
    def first_by_id(self) -> dict[str, UsageEvent]:
        """Id to its first event, in the order of ids, so that two writers lock the same rows in the same order."""
        first: dict[str, UsageEvent] = {}
        for message in self.countable:
            first.setdefault(message.event.id, message.event)
        return dict(sorted(first.items()))

    @property
    def sequence_ranges(self) -> dict[str, tuple[SeqRange, ...]]:
        """Return the numbers in this batch, by source and sorted.

        A quarantined message is in the ledger too, as it arrived: its source need not keep it.
        """
        numbers = [(r.event.source, single_range(r.event.source_seq, r.event.completed_at)) for r in self.countable]
        numbers += [(q.source, single_range(q.source_seq, q.at)) for q in self.quarantined if q.source and q.source_seq]
        by_source: defaultdict[str, list[SeqRange]] = defaultdict(list)
        for source, run in numbers:
            by_source[source].append(run)
        return {source: merge_ranges(runs) for source, runs in sorted(by_source.items())}

    def quarantine_older(self, oldest: float) -> "Batch":
        """Return the batch with every event that completed before `oldest` (Unix seconds) in quarantine.

        Whether it was counted before is no longer known, so it cannot be counted again.
        """
        kept = tuple(m for m in self.countable if m.event.completed_at >= oldest)
        if len(kept) == len(self.countable):
            return self
        old = tuple(_quarantine_old(m, oldest) for m in self.countable if m.event.completed_at < oldest)
        return replace(self, countable=kept, quarantined=self.quarantined + old)

    @property
    def keys(self) -> set[str]:
        """The keys that these events belong to."""
        return {m.event.key_id for m in self.countable}

    @property
    def sources(self) -> set[str]:
        """The sources named in these messages."""
        return {m.event.source for m in self.countable} | {q.source for q in self.quarantined if q.source}

    def quarantine_unknown(self, keys: Container[str], sources: Container[str]) -> "Batch":
        """Return the batch with every event of these keys and sources in quarantine.

        A message of an unknown source gets no number: it leaves no gap in anybody's numbers.
        """
        kept: list[CountableEvent] = []
        quarantined = [replace(q, source=None, source_seq=None) if q.source in sources else q for q in self.quarantined]
        for message in self.countable:
            if message.event.source in sources:
                quarantined.append(_quarantine_unknown(message, QuarantineKind.UNKNOWN_SOURCE, message.event.source))
            elif message.event.key_id in keys:
                quarantined.append(_quarantine_unknown(message, QuarantineKind.UNKNOWN_KEY, message.event.key_id))
            else:
                kept.append(message)
        return replace(self, countable=tuple(kept), quarantined=tuple(quarantined))

    def missing_flags(self, stored: Mapping[str, Sequence[SeqRange]]) -> tuple[bool, ...]:
        """Return for each quarantined message whether it takes the place of an event to be counted.

        It does unless something else has its number, in this batch or before. `stored`: by source, the numbers that the
        ledger had before.
        """
        taken = {(m.event.source, m.event.source_seq) for m in self.countable}
        flags: list[bool] = []
        for q in self.quarantined:
            if q.source is None or q.source_seq is None:
                flags.append(False)
                continue
            position = (q.source, q.source_seq)
            is_stored = any(r.first <= q.source_seq <= r.last for r in stored.get(q.source, ()))
            flags.append(not is_stored and position not in taken)
            taken.add(position)
        return tuple(flags)


class _SourcePosition(msgspec.Struct):
    """The part of an otherwise unreadable event that may still be read."""

    source: str
    source_seq: int
    completed_at: float


def parse_batch(payloads: Iterable[bytes], received_at: float, *, keep_s: float = math.inf) -> Batch:
    """Parse a batch. `keep_s`: seconds after which an event is too old to be counted."""
    countable: list[CountableEvent] = []
    quarantined: list[UncountableMessage] = []
    for payload in payloads:
        try:
            event = decode(payload, UsageEvent)
        except Unreadable as error:
            quarantined.append(_quarantine(payload, QuarantineKind.UNREADABLE, str(error), received_at))
            continue
        result = classify_event(clamp_token_counts(event), payload, received_at)
        if isinstance(result, CountableEvent):
            countable.append(result)
        else:
            quarantined.append(result)
    batch = Batch(countable=tuple(countable), quarantined=tuple(quarantined), received_at=received_at)
    return batch.quarantine_older(received_at - keep_s)


def classify_event(event: UsageEvent, payload: bytes, received_at: float) -> CountableEvent | UncountableMessage:
    """Decide whether an event can be counted, by itself."""
    if error := next(event_errors(event), None):
        return _quarantine(payload, QuarantineKind.INVALID, error, received_at)
    if event.completed_at > received_at + AHEAD_SECONDS:
        return _quarantine_future(event, payload, received_at)
    return CountableEvent(event=event, payload=payload)


def _quarantine_future(event: UsageEvent, payload: bytes, received_at: float) -> UncountableMessage:
    """Quarantine it on the day on which it arrived: no clock says when it completed."""
    ahead = event.completed_at - received_at
    return UncountableMessage(
        payload=payload,
        kind=QuarantineKind.FUTURE,
        reason=f"completed_at: {ahead:.0f} s ahead of the meter's clock: correct the gateway's clock",
        source=event.source,
        source_seq=event.source_seq,
        at=received_at,
    )


def _quarantine_old(message: CountableEvent, oldest: float) -> UncountableMessage:
    event = message.event
    return UncountableMessage(
        payload=message.payload,
        kind=QuarantineKind.OLD,
        reason=f"completed_at: {oldest - event.completed_at:.0f} s older than events are kept (meter.keep_events)",
        source=event.source,
        source_seq=event.source_seq,
        at=event.completed_at,
    )


def _quarantine_unknown(message: CountableEvent, kind: QuarantineKind, name: str) -> UncountableMessage:
    event = message.event
    is_key = kind == QuarantineKind.UNKNOWN_KEY
    return UncountableMessage(
        payload=message.payload,
        kind=kind,
        reason=f"key_id: no key has the id {name!r}" if is_key else f"source: no gateway announced {name!r}",
        source=event.source if is_key else None,
        source_seq=event.source_seq if is_key else None,
        at=event.completed_at,
        name=name,
    )


def _quarantine(payload: bytes, kind: QuarantineKind, reason: str, received_at: float) -> UncountableMessage:
    source, source_seq, at = None, None, received_at
    try:
        position = decode(payload, _SourcePosition)
    except Unreadable:
        position = None
    if position and is_name(position.source) and 1 <= position.source_seq < SEQ_LIMIT:
        source, source_seq = position.source, position.source_seq
        # A day that has not begun lacks nothing.
        at = position.completed_at if 0 <= position.completed_at <= received_at + AHEAD_SECONDS else received_at
    # PostgreSQL's text cannot hold a NUL, and the reason may quote one.
    reason = reason.replace("\0", "\\0")
    return UncountableMessage(payload=payload, kind=kind, reason=reason, source=source, source_seq=source_seq, at=at)
