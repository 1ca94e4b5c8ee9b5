"""What the waker publishes: the state of each machine and the operations journal."""

from typing import Literal

from shared.messages.codec import Message

MachineState = Literal["asleep", "waking", "ready", "draining", "falling_asleep", "broken", "gone"]
Phase = Literal["calling", "booting", "reaching", "loading", "first_token"]
CallOutcome = Literal["accepted", "refused", "unknown", "failed"]


class MachineRecord(Message, frozen=True, kw_only=True, tag="machine.v1"):
    """Bucket `fleet`, one key per machine; only the waker writes it. Times are Unix seconds."""

    machine: str
    tier: str
    state: MachineState
    provider_state: str
    """The provider's own word, kept beside ours."""
    endpoint: str | None
    """Origin without `/v1`; set while the engine can be reached."""
    generation: int
    """Counts the machine's wakes: one engine process, one generation."""
    since: float
    """When `state` began."""
    reason: str
    wake_id: str | None = None
    phase: Phase | None = None
    """Set exactly while `waking`."""
    ready_at: float | None = None
    """When the wake is expected to be done; None without history."""
    key_id: str | None = None
    """The key whose request caused the wake under way or the last one."""


class Transition(Message, frozen=True, kw_only=True, tag="transition.v1"):
    """`fleet.journal.<machine>`: a machine changed its state."""

    at: float
    machine: str
    tier: str
    from_state: MachineState | None
    """None at first sight."""
    to_state: MachineState
    reason: str
    generation: int
    wake_id: str | None = None
    key_id: str | None = None


class ProviderCall(Message, frozen=True, kw_only=True, tag="provider_call.v1"):
    """`fleet.journal.<machine>`: the waker called a provider, or probed an engine (`call` is `probe`)."""

    at: float
    machine: str
    call: str
    outcome: CallOutcome
    code: str
    """The provider's own error code or HTTP status; empty when accepted."""
    seconds: float
    tokens: int = 0
    """Tokens that a probe made the engine work: they are in the engine's counters and in no usage event."""


JournalEntry = Transition | ProviderCall
