"""Records the end of a request: usage event, key limits, circuit breaker, metrics."""

from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.core.breaker import Breaker
from services.gateway.core.rate_limits import Reservation
from services.gateway.core.usage_record import UsageRecord
from services.gateway.metrics import Metrics
from services.gateway.ports import UsageStore


@dataclass(eq=False)
class UsageRecorder:
    """Records each finished request in all the places that count it.

    Arguments:
        on_append: called after each event, to have it sent.
        now: Unix seconds.
    """

    outbox: UsageStore
    on_append: Callable[[], None]
    breaker: Breaker
    metrics: Metrics
    now: Callable[[], float]

    def record(self, usage: UsageRecord, reservation: Reservation | None) -> None:
        """Record a request that may have reached an engine, before the client has the end of the response."""
        seq = self.outbox.next_seq
        event = usage.event(self.outbox.source, seq, self.now())
        self.outbox.append(event)
        self.on_append()
        if reservation is not None:
            served = 0 if event.outcome == "failed" else event.prompt_tokens + event.completion_tokens
            reservation.settle(served, event.completed_at, seq)
        if usage.machine_answered:
            self.breaker.reset(event.machine)
        self.metrics.count(event)
