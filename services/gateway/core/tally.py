"""What one request has come to so far, and the usage event that it becomes."""

from dataclasses import dataclass, field

from services.gateway.core.usage import Count
from shared.messages.gateway import Outcome, UsageEvent
from shared.messages.waker import MachineRecord


@dataclass(kw_only=True)
class Tally:
    """Times are Unix seconds. `outcome` is `failed` until something better is known."""

    arrived: float
    written: bool = False
    """Whether an engine may have seen the request: only then there is an event."""
    outcome: Outcome = "failed"
    status: int = 0
    count: Count = field(default_factory=Count)
    wake_wait: float = 0.0
    wake_id: str | None = None
    forwarded_at: float | None = None
    first_byte_at: float | None = None

    def event(
        self, *, request_id: str, key_id: str, model: str, machine: MachineRecord, streamed: bool, now: float
    ) -> UsageEvent:
        """Without its place in the sequence, which the outbox gives it."""
        waited_until = self.arrived + self.wake_wait
        return UsageEvent(
            id=request_id,
            source="",
            source_seq=0,
            completed_at=now,
            key_id=key_id,
            model=model,
            tier=machine.tier,
            machine=machine.machine,
            generation=machine.generation,
            prompt_tokens=self.count.prompt,
            cached_tokens=self.count.cached,
            completion_tokens=self.count.completion,
            reasoning_tokens=self.count.reasoning,
            basis=self.count.basis,
            outcome=self.outcome,
            status=self.status,
            streamed=streamed,
            wake_wait=self.wake_wait,
            wake_id=self.wake_id,
            first_token=None if self.first_byte_at is None else max(0.0, self.first_byte_at - waited_until),
            duration=max(0.0, now - self.arrived),
            overhead=0.0 if self.forwarded_at is None else max(0.0, self.forwarded_at - waited_until),
        )
