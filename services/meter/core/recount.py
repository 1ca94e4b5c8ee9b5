"""What of the messages in quarantine can be counted after all."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from services.meter.core.batch import Batch, CountableEvent, QuarantineKind, clamp_token_counts, classify_event
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import UsageEvent


@dataclass(frozen=True, kw_only=True)
class QuarantinedMessage:
    """A message in quarantine: `at` is the moment (Unix seconds) of the day that lacks it."""

    payload: bytes
    kind: QuarantineKind
    at: float


def parse_quarantined(held: Iterable[QuarantinedMessage], now: float, *, keep: float) -> Batch:
    """The messages that can be counted now; the others are left out. `keep`: as for `read`.

    A message from the future is of the moment when it came: one of the two clocks was wrong, and that is the day which
    lacks it.
    """
    countable: list[CountableEvent] = []
    for message in held:
        try:
            event = clamp_token_counts(decode(message.payload, UsageEvent))
        except Unreadable:
            continue
        if message.kind == "future":
            event = msgspec.structs.replace(event, completed_at=message.at)
        if isinstance(judged := classify_event(event, message.payload, now), CountableEvent):
            countable.append(judged)
    batch = Batch(countable=tuple(countable), quarantined=(), received_at=now).quarantine_older(now - keep)
    return replace(batch, quarantined=())
