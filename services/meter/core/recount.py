"""Which of the messages in quarantine can be counted now."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from services.meter.core.batch import Batch, CountableEvent, QuarantineKind, classify_event
from services.meter.core.event_validation import clamp_token_counts
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import UsageEvent


@dataclass(frozen=True, kw_only=True)
class QuarantinedMessage:
    """A message in quarantine; `at` is the moment (Unix seconds) of the day that lacks it."""

    payload: bytes
    kind: QuarantineKind
    at: float


def parse_quarantined(messages: Iterable[QuarantinedMessage], now: float, *, keep_s: float) -> Batch:
    """Return the messages that can be counted now; the others are left out. `keep_s`: as for `parse_batch`.

    A message from the future is counted at the moment when it arrived: one of the two clocks was wrong, and that is
    the day that lacks it.
    """
    countable: list[CountableEvent] = []
    for message in messages:
        try:
            event = clamp_token_counts(decode(message.payload, UsageEvent))
        except Unreadable:
            continue
        if message.kind == QuarantineKind.FUTURE:
            event = msgspec.structs.replace(event, completed_at=message.at)
        if isinstance(classified := classify_event(event, message.payload, now), CountableEvent):
            countable.append(classified)
    batch = Batch(countable=tuple(countable), quarantined=(), received_at=now).quarantine_older(now - keep_s)
    return replace(batch, quarantined=())
