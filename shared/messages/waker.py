"""What the waker publishes: the state of each machine, the operations journal, what it remembers; and its orders."""

from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from shared.messages.codec import Message
from shared.messages.values import Count, Seconds, UnixSeconds, check_amounts

MachineState = Literal["asleep", "waking", "ready", "draining", "falling_asleep", "broken", "gone"]
Phase = Literal["calling", "booting", "reaching", "loading", "first_token"]
CallOutcome = Literal["accepted", "refused", "unknown", "failed"]
REMOVED = "removed"
"""The `alarm_reason` of a machine that is not configured any more and may still run."""


class MachineRecord(Message, frozen=True, kw_only=True, tag="machine.v1"):
    """Bucket `fleet`, one key per machine; only the waker writes it. Times are Unix seconds."""

    machine: str
    tier: str
    state: MachineState
    provider_state: str
    """The provider's own word, kept beside ours."""
    endpoint: str | None
    """Origin without `/v1`; set while the engine can be reached."""
    generation: Count
    """Counts the machine's wakes: one engine process, one generation."""
    since: UnixSeconds
    """When `state` began."""
    reason: str
    wake_id: str | None = None
    phase: Phase | None = None
    """Set exactly while `waking`."""
    ready_at: UnixSeconds | None = None
    """When the wake is expected to be done, by the waker's clock; None without history."""
    ready_in: Seconds | None = None
    """`ready_at` in seconds from when this was written."""
    key_id: str | None = None
    """The key whose request caused the wake under way or the last one."""
    kept: bool = False
    """The operator's `wake` keeps it awake."""
    cordoned: bool = False
    """The operator keeps it from requests: it is not woken, and drained where it was awake."""
    alarm: str = ""
    """What the operator has to fix, in words; empty if nothing."""
    alarm_reason: str = ""
    """The kind of the alarm, for metrics: one of a few words, and more to come. Empty from an older waker."""
    failed_wakes: Count = 0
    """Wakes in a row in which its engine did not become ready; `reason` says why the last one failed."""
    max_model_len: Annotated[int, msgspec.Meta(gt=0, lt=2**40)] | None = None
    """The longest context in tokens, as its engine told it last; None where no engine did."""
    configured_at: UnixSeconds = 0.0
    """When the waker that wrote this read its configuration: one with an older configuration leaves the record alone
    if it does not know the machine. 0 from an older waker."""


class Transition(Message, frozen=True, kw_only=True, tag="transition.v1"):
    """`fleet.journal.<machine>`: a machine changed its state."""

    at: UnixSeconds
    machine: str
    tier: str
    from_state: MachineState | None
    """None at first sight."""
    to_state: MachineState
    reason: str
    generation: Count
    wake_id: str | None = None
    key_id: str | None = None


class ProviderCall(Message, frozen=True, kw_only=True, tag="provider_call.v1"):
    """`fleet.journal.<machine>`: the waker called a provider, or probed an engine (`call` is `probe`)."""

    at: UnixSeconds
    machine: str
    call: str
    outcome: CallOutcome
    code: str
    """The provider's own error code or HTTP status; empty when accepted."""
    seconds: Seconds
    tokens: Count = 0
    """Tokens that a probe made the engine work: they are in the engine's counters and in no usage event."""


class PhaseEnded(Message, frozen=True, kw_only=True, tag="phase.v1"):
    """`fleet.journal.<machine>`: a phase of a wake is over."""

    at: UnixSeconds
    machine: str
    tier: str
    wake_id: str
    phase: Phase
    seconds: Seconds
    done: bool
    """False: the machine was given up in it, or started again."""


CommandKind = Literal["wake", "hibernate", "cordon", "uncordon"]


class CommandIssued(Message, frozen=True, kw_only=True, tag="ordered.v1"):
    """`fleet.journal.<machine or model>`: the operator said so."""

    at: UnixSeconds
    machine: str
    """The model's name, for `wake`."""
    order: CommandKind
    by: str
    reason: str = ""
    """Why, in the operator's words; empty if none was given."""


JournalEntry = Transition | ProviderCall | PhaseEnded | CommandIssued


class WakerCommand(Message, frozen=True, kw_only=True, tag="waker_command.v1"):
    """Request on `waker.command`: an order of the operator."""

    order: CommandKind
    target: str
    """A model's name for `wake` unless `is_machine`, a machine's id for all others."""
    by: str
    """Who gives it, for the journal."""
    force: bool = False
    """`hibernate` stops the machine even if its engine says that it runs requests. An older waker does not ask it."""
    is_machine: bool = False
    """`wake` names a machine: it is woken once, and nothing keeps it awake. An older waker knows no such model."""
    reason: str = ""
    """Why, for the journal. An older waker leaves it out."""


class WakerReply(Message, frozen=True, kw_only=True, tag="waker_reply.v1"):
    """The order is on record and will be followed; or why not."""

    accepted: bool
    error: str = ""
    machines: tuple[str, ...] = ()
    """The machines that the order is about; for `wake`, the model's."""
    wake_cap: Seconds = 0.0
    """Seconds that a wake lasts at most; 0 from an older waker."""


class MachineMemory(Message, frozen=True, kw_only=True, tag="machine_memory.v1"):
    """Bucket `waker`, `machine.<id>`: what one leader has to know of a machine that another led. Unix seconds."""

    machine: str
    last_used: UnixSeconds = 0.0
    """Written only as often as it matters."""
    kept: bool = False
    cordoned: bool = False
    cool_until: UnixSeconds = 0.0
    failures: Count = 0
    tried_wake: str = ""
    tried_starts: Count = 0
    """The wake that started it last under earlier wakers, and how often it did."""
    tried: dict[str, Count] = msgspec.field(default_factory=dict)
    """How often each wake under way has started it."""
    woken: tuple[UnixSeconds, ...] = ()
    """The wakes of the last hour."""
    wake_deadline: UnixSeconds = 0.0
    """The deadline of the wake under way."""
    causes: tuple[str, ...] = ()
    """The keys that its wake is not yet charged to."""
    charged_since: UnixSeconds = 0.0
    unready: Count = 0
    """Wakes in a row in which its engine did not become ready."""
    unready_reason: str = ""
    """Why the last of them failed."""


class TierMemory(Message, frozen=True, kw_only=True, tag="tier_memory.v1"):
    """Bucket `waker`, `tier.<name>`: how long its wakes took lately, and how long it was unused between uses."""

    tier: str
    phases: dict[Phase, tuple[Seconds, ...]] = msgspec.field(default_factory=dict)
    """Seconds, the newest last."""
    wakes: tuple[Seconds, ...] = ()
    """Seconds from asleep to ready."""
    gaps: tuple[Count, ...] = ()
    """How often it was unused for so many whole minutes; the last counts all that were longer."""


class KeyWakes(Message, frozen=True, kw_only=True, tag="key_wakes.v1"):
    """Bucket `wakes`, one entry per key that caused a wake lately: what its wakes came to. Only the waker writes it."""

    key_id: str
    wakes: Count
    """Wakes that began within the last hour."""
    cost: Decimal
    """USD attributed to the key on `day`."""
    day: str
    """The UTC day, YYYY-MM-DD."""
    starts: tuple[UnixSeconds, ...] = ()
    """When they began, for the next leader: Unix seconds by the waker's clock."""
    under_way: tuple[str, ...] = ()
    """The models whose wakes under way it caused: more of its requests may wait for them, whatever its limits."""

    def __post_init__(self) -> None:
        check_amounts(self.cost)


class WakeMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A wake under way."""

    id: str
    deadline: UnixSeconds
    keys: tuple[str, ...] = ()


class WakesMemory(Message, frozen=True, kw_only=True, tag="wakes_memory.v1"):
    """Bucket `waker`, `wakes`: the wakes under way, by model, be none of their machines waking just now."""

    wakes: dict[str, WakeMemory] = msgspec.field(default_factory=dict)


class OperatorWakesMemory(Message, frozen=True, kw_only=True, tag="orders_memory.v1"):
    """Bucket `waker`, `orders`: models that the operator wants awake and that no machine serves for it yet."""

    models: tuple[str, ...] = ()


Memory = MachineMemory | TierMemory | OperatorWakesMemory | WakesMemory
