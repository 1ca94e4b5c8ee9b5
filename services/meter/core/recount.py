"""What of the messages in quarantine can be counted after all."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from services.meter.core.batch import Batch, Kind, Readable, judge, plausible
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import UsageEvent


@dataclass(frozen=True, kw_only=True)
class Held:
    """A message in quarantine: `at` is the moment (Unix seconds) of the day that lacks it."""

    payload: bytes
    kind: Kind
    at: float


def read_again(held: Iterable[Held], now: float, *, keep: float) -> Batch:
    """The messages that can be counted now; the others are left out. `keep`: as for `read`.

    A message from the future is of the moment when it came: one of the two clocks was wrong, and that is the day which
    lacks it.
    """
    readable: list[Readable] = []
    for message in held:
        try:
            event = plausible(decode(message.payload, UsageEvent))
        except Unreadable:
            continue
        if message.kind == "future":
            event = msgspec.structs.replace(event, completed_at=message.at)
        if isinstance(judged := judge(event, message.payload, now), Readable):
            readable.append(judged)
    batch = Batch(readable=tuple(readable), quarantined=(), received_at=now).since(now - keep)
    return replace(batch, quarantined=())
