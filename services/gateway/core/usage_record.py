"""What is known of a request so far, and the usage event that it becomes."""

from dataclasses import dataclass

from services.gateway.core.request_body import ParsedRequest
from services.gateway.core.usage import NO_TOKENS, TokenCount
from shared.messages.gateway import Outcome, UsageEvent
from shared.messages.waker import MachineRecord


@dataclass(slots=True)
class UsageRecord:
    """The usage of one request. Times are Unix seconds; `outcome` is `failed` until something better is known."""

    request_id: str
    key_id: str
    arrived: float
    operation: str = ""
    model: str | None = None
    """The client's name for the model, once it is known to exist."""
    streamed: bool = False
    choices: int = 1
    max_tokens: int = 0
    body_bytes: int = 0
    machine: MachineRecord | None = None
    """Where the request was sent; after a failover, the second machine."""
    moved_from: str | None = None
    """The first machine after a failover, if it may have seen the request."""
    written: bool = False
    """Whether an engine may have seen the request: only then is there an event."""
    outcome: Outcome = "failed"
    machine_answered: bool = False
    """Whether the engine did its work, even if it rejected this very request."""
    status: int = 0
    """The engine's HTTP status."""
    count: TokenCount = NO_TOKENS
    wake_wait: float = 0.0
    wake_id: str | None = None
    forwarded_at: float | None = None
    first_byte_at: float | None = None

    def on_parsed(self, model: str, request: ParsedRequest) -> None:
        """Take over what the body says. `model` is the client's name; `request` still has its body."""
        self.model, self.streamed, self.choices = model, request.stream, request.choices
        self.max_tokens, self.body_bytes = request.max_tokens, len(request.body)

    def on_failover(self) -> None:
        """Record that the machine failed and another one gets the request."""
        if self.written and self.machine is not None:
            self.moved_from = self.machine.machine
        self.status = 0

    @property
    def first_byte(self) -> float | None:
        """Seconds from the arrival to the first byte of the response, without the wait for a wake."""
        return self._seconds_until(self.first_byte_at)

    def event(self, source: str, source_seq: int, now: float) -> UsageEvent:
        """Return the usage event of a request that was written to an engine."""
        count, machine = self.count, self.machine
        assert machine is not None, "a written request has a machine"
        assert self.model is not None, "a written request has a model"
        return UsageEvent(
            id=self.request_id,
            source=source,
            source_seq=source_seq,
            completed_at=now,
            key_id=self.key_id,
            model=self.model,
            tier=machine.tier,
            machine=machine.machine,
            generation=machine.generation,
            prompt_tokens=count.prompt,
            cached_tokens=count.cached,
            completion_tokens=count.completion,
            reasoning_tokens=count.reasoning,
            basis=count.basis,
            outcome=self.outcome,
            status=self.status,
            streamed=self.streamed,
            wake_wait=self.wake_wait,
            wake_id=self.wake_id,
            first_token=self.first_byte,
            duration=max(0.0, now - self.arrived),
            overhead=self._seconds_until(self.forwarded_at) or 0.0,
            moved_from=self.moved_from,
            choices=self.choices,
            max_tokens=self.max_tokens,
            body_bytes=self.body_bytes,
            operation=self.operation,
        )

    def _seconds_until(self, moment: float | None) -> float | None:
        return None if moment is None else max(0.0, moment - self.arrived - self.wake_wait)
