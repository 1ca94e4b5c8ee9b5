"""The end of a request in the books: its usage event, its key's limits, its machine's record, the metrics."""

from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.adapters.outbox import Outbox
from services.gateway.adapters.usage_sender import UsageSender
from services.gateway.core.breaker import Breaker
from services.gateway.core.rate_limits import Reservation
from services.gateway.core.usage_record import UsageRecord
from services.gateway.metrics import Metrics


@dataclass(eq=False)
class UsageRecorder:
    """`now` is Unix seconds."""

    outbox: Outbox
    sender: UsageSender
    breaker: Breaker
    metrics: Metrics
    now: Callable[[], float]

    def record(self, usage: UsageRecord, reservation: Reservation | None) -> None:
        """Record a request that may have reached an engine, before its client has the end of its response."""
        seq = self.outbox.next_seq
        event = usage.event(self.outbox.source, seq, self.now())
        self.outbox.append(event)
        self.sender.wake()
        if reservation is not None:
            served = 0 if event.outcome == "failed" else event.prompt_tokens + event.completion_tokens
            reservation.settle(served, event.completed_at, seq)
        if usage.machine_answered:
            self.breaker.reset(event.machine)
        self.metrics.count(event)
