"""What one request has come to so far, and the usage event that it becomes."""

from services.gateway.core.request import Asked
from services.gateway.core.usage import NOTHING, Count
from shared.messages.gateway import Outcome, UsageEvent
from shared.messages.waker import MachineRecord


class Tally:
    """Times are Unix seconds. `outcome` is `failed` until something better is known."""

    __slots__ = (
        "arrived",
        "body_bytes",
        "choices",
        "count",
        "first_byte_at",
        "forwarded_at",
        "key_id",
        "machine",
        "machine_answered",
        "max_tokens",
        "model",
        "moved_from",
        "outcome",
        "request_id",
        "status",
        "streamed",
        "wake_id",
        "wake_wait",
        "written",
    )

    def __init__(self, request_id: str, key_id: str, arrived: float) -> None:
        self.request_id = request_id
        self.key_id = key_id
        self.arrived = arrived
        self.model: str | None = None
        """The client's name for it, once it is known to be one."""
        self.streamed = False
        self.choices = 1
        self.max_tokens = 0
        self.body_bytes = 0
        self.machine: MachineRecord | None = None
        """Where it was sent, the last one of two."""
        self.moved_from: str | None = None
        """The first one of two, where it may have seen the request."""
        self.written = False
        """Whether an engine may have seen the request: only then there is an event."""
        self.outcome: Outcome = "failed"
        self.machine_answered = False
        """The engine did what it should, a refusal of this very request included."""
        self.status = 0
        """The engine's."""
        self.count: Count = NOTHING
        self.wake_wait = 0.0
        self.wake_id: str | None = None
        self.forwarded_at: float | None = None
        self.first_byte_at: float | None = None

    def asked(self, model: str, asked: Asked) -> None:
        """`model` is the client's name for one that is known; `asked` still has its body."""
        self.model, self.streamed, self.choices = model, asked.stream, asked.choices
        self.max_tokens, self.body_bytes = asked.max_tokens, len(asked.body)

    def moves(self) -> None:
        """Its machine failed, and another one gets it."""
        if self.written and self.machine is not None:
            self.moved_from = self.machine.machine

    @property
    def first_byte(self) -> float | None:
        """Seconds from arrival to the first byte of the answer, without the wait for a wake."""
        if self.first_byte_at is None:
            return None
        return max(0.0, self.first_byte_at - self.arrived - self.wake_wait)

    @property
    def overhead(self) -> float:
        """Seconds from arrival to forwarded, without the wait for a wake."""
        if self.forwarded_at is None:
            return 0.0
        return max(0.0, self.forwarded_at - self.arrived - self.wake_wait)

    def event(self, source: str, source_seq: int, now: float) -> UsageEvent:
        """One per request that was written to an engine."""
        count, machine = self.count, self.machine
        assert machine is not None, "what was written was written to a machine"
        assert self.model is not None, "what was written has a model"
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
            overhead=self.overhead,
            moved_from=self.moved_from,
            choices=self.choices,
            max_tokens=self.max_tokens,
            body_bytes=self.body_bytes,
        )
