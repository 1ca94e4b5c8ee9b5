"""The end of a request in the books: its usage event, its key's limits, its machine's record, the metrics."""

from collections.abc import Callable

from services.gateway.adapters.outbox import Outbox
from services.gateway.adapters.usage_sender import UsageSender
from services.gateway.core.breaker import Breaker
from services.gateway.core.rate_limits import Reservation
from services.gateway.core.usage_record import UsageRecord
from services.gateway.metrics import Metrics


class UsageRecorder:
    """`now` is Unix seconds."""

    def __init__(
        self, outbox: Outbox, sender: UsageSender, breaker: Breaker, metrics: Metrics, now: Callable[[], float]
    ) -> None:
        self._outbox = outbox
        self._sender = sender
        self._breaker = breaker
        self._metrics = metrics
        self._now = now

    def record(self, usage: UsageRecord, reservation: Reservation | None) -> None:
        """Record a request that may have reached an engine, before its client has the end of its response."""
        seq = self._outbox.next_seq
        event = usage.event(self._outbox.source, seq, self._now())
        self._outbox.append(event)
        self._sender.wake()
        if reservation is not None:
            served = 0 if event.outcome == "failed" else event.prompt_tokens + event.completion_tokens
            reservation.settle(served, event.completed_at, seq)
        if usage.machine_answered:
            self._breaker.reset(event.machine)
        self._metrics.count(event)
