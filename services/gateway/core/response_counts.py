"""Counts the responses to clients with a valid key by hour, model, status and code, for the ledger."""

from collections import Counter
from collections.abc import Iterator

from services.gateway.core.usage_record import UsageRecord
from shared.messages.responses import HourResponses, ResponseCount
from shared.units import HOUR_S

KEPT_HOURS = 3
"""Published hours that are kept, to be published again to a bus that lost its data."""
MAX_HOURS = 72
"""Hours that are kept without a bus; beyond, the oldest is dropped."""
MAX_KINDS = 1000
"""Kinds of responses in one hour's message: an engine may answer with any status."""
OTHER = "other"
"""The code under which the kinds beyond these are counted, without their model."""
STATUS_LIMIT = 600
ENGINE_ERROR = "engine_error"
"""The code of an error that an engine reports after its status 200."""

Kind = tuple[str, int, str]


class ResponseCounts:
    """`current` counts this hour's responses; requests raise it themselves. Call `roll` every second."""

    def __init__(self, source: str, now: float) -> None:
        self._source = source
        self._hours: dict[int, Counter[Kind]] = {}
        self._published: dict[int, int] = {}
        """By hour, how many responses the last message had."""
        self.current: Counter[Kind] = Counter()
        self.roll(now)

    def roll(self, now: float) -> None:
        """Count under the hour of `now` (Unix seconds) from here on."""
        self.current = self._hours.setdefault(int(now // HOUR_S), Counter())

    def unpublished(self) -> Iterator[HourResponses]:
        """Yield the hours that have changed since they were published, the oldest first."""
        for hour, counter in sorted(self._hours.items()):
            if counter.total() != self._published.get(hour, 0):
                yield HourResponses(source=self._source, hour=hour, counts=_bounded(counter))

    def on_published(self, message: HourResponses) -> None:
        """Note that the bus has a message."""
        self._published[message.hour] = sum(count.responses for count in message.counts)

    def publish_again(self) -> None:
        """Let `unpublished` yield everything again: the bus may have lost it."""
        self._published.clear()

    def forget_old(self) -> None:
        """Drop published hours, and the oldest if there are too many."""
        newest = sorted(self._hours, reverse=True)
        for place, hour in enumerate(newest):
            is_done = self._hours[hour].total() == self._published.get(hour, 0)
            if self._hours[hour] is not self.current and (place >= MAX_HOURS or (is_done and place >= KEPT_HOURS)):
                del self._hours[hour]
                self._published.pop(hour, None)


def effective_status(status: int, code: str, usage: UsageRecord) -> tuple[int, str]:
    """Return the status and code under which a response counts: an engine may report an error after its 200."""
    if code or status >= 300 or usage.outcome not in ("failed", "engine_lost"):
        return (status if status < STATUS_LIMIT else 502), code
    return (400 if usage.machine_answered else 502), ENGINE_ERROR


def _bounded(counter: Counter[Kind]) -> tuple[ResponseCount, ...]:
    """Return the counts. Kinds keep the order in which they came, so that what is summed up stays summed up."""
    kinds = list(counter.items())
    rest: Counter[Kind] = Counter()
    for (_, status, _), responses in kinds[MAX_KINDS:]:
        rest["", status, OTHER] += responses
    return tuple(
        ResponseCount(model=model, status=status, code=code, responses=responses)
        for (model, status, code), responses in (*kinds[:MAX_KINDS], *rest.items())
    )
