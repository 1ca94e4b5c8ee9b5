"""What can happen to the fleet, and what the fleet can ask for, as values. Times are Unix seconds, durations seconds.

Events may be late, repeated or lost: a result names its call or probe by `serial`, and an observation says when it
was requested.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shared.config.providers import ProviderName
from shared.messages.gateway import Activity, WakeRequest
from shared.messages.machine import MachineNotice
from shared.messages.waker import (
    CallOutcome,
    CommandKind,
    JournalEntry,
    KeyWakes,
    MachineRecord,
    Memory,
)

CallKind = Literal["start", "stop"]
ProbeStep = Literal["reach", "token"]
"""Whether the engine responds at all; whether it does its model's work: one token, or one embedding."""

PowerState = Literal["stopped", "starting", "running", "stopping", "stopped_billed", "error", "not_found"]
"""A provider's state of a machine, in our words. `stopped_billed`: off and billed in full. `error`: broken and not
billed. `not_found`: unknown to the provider, or deleted for good."""

RefusalScope = Literal["transient", "machine", "capacity_pool", "quota", "account"]
"""What a refusal concerns: only this moment (the machine is changing state), this machine (permission, its own
limits), its capacity pool (no room for its type in its zone), its quota (of an instance family and market), or the
whole account (credentials, balance)."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a provider reports of one machine."""

    power: PowerState
    provider_state: str
    """The provider's own word."""
    generation: int | None = None
    """The generation of the engine that runs, or ran last; None if the provider does not count them."""
    endpoint: str | None = None
    """Where its engine listens; None: not known yet, or as configured."""
    reason: str = ""
    """Why nothing runs any more."""
    ended_at: float | None = None
    scope: RefusalScope | None = None
    """What the failure concerns if a start was accepted and then failed."""
    pool: str = ""
    """Its capacity pool: type, zone and market. Empty: unknown, so a refusal concerns no other machine."""
    quota: str = ""
    """The quota that it counts against: instance family and market."""
    leaving: str = ""
    """The provider is about to take it away: the provider's words."""
    locked: str = ""
    """It is off and we may not start it: why."""

    @property
    def is_active(self) -> bool:
        """Something of it runs, even if it is only starting or stopping."""
        return self.power in ("starting", "running", "stopping")

    @property
    def is_stopping(self) -> bool:
        return self.power == "stopping"

    @property
    def is_billed(self) -> bool:
        return self.power in ("running", "stopped_billed")


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A machine that carries our fleet's mark and is not configured. Its id is `PROVIDER:INSTANCE`."""

    id: str
    provider: ProviderName
    observation: Observation


@dataclass(frozen=True)
class DemandReported:
    """A gateway reported its demand for a model; the report arrived at `at` by our clock."""

    request: WakeRequest
    at: float


@dataclass(frozen=True)
class ActivityReported:
    """A gateway reported what it does with each machine."""

    activity: Activity


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A provider was observed. A machine missing from `observations` proves nothing."""

    provider: ProviderName
    requested_at: float
    observations: Mapping[str, Observation]
    orphans: tuple[Orphan, ...] = ()
    error: str | None = None
    """Why the observation failed; None if it succeeded."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A provider was self-tested: may we start and stop, and does its clock agree with ours?"""

    provider: ProviderName
    faults: tuple[str, ...]
    """Each names the machine or permission that it concerns, and the fix. Empty: all is well."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """The operator issued a command."""

    order: CommandKind
    target: str
    by: str
    force: bool = False
    """`hibernate` stops the machine even if its engine says that it runs requests."""
    is_machine: bool = False
    """`wake` names a machine, which is woken once."""
    reason: str = ""
    """Why, for the journal."""


@dataclass(frozen=True, kw_only=True)
class Called:
    """A provider call ended. `accepted` means that it is under way, not that it is done."""

    machine: str
    call: CallKind
    serial: int
    outcome: CallOutcome
    seconds: float
    code: str = ""
    reason: str = ""
    endpoint: str | None = None
    generation: int | None = None
    """The generation of an engine that only slept; None: the one that was requested."""
    scope: RefusalScope | None = None


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A probe ended."""

    machine: str
    serial: int
    step: ProbeStep
    answered: bool
    seconds: float
    is_host_up: bool = False
    """Something on the machine responded, even with a refusal: its network is up."""
    mismatch: str = ""
    """What responded instead, if it is no engine of this model."""
    code: str = ""
    """Why it failed: an HTTP status or the network's error."""
    tokens: int = 0
    max_model_len: int | None = None
    """The longest context in tokens, if the engine reports it."""


@dataclass(frozen=True, kw_only=True)
class RequestsCounted:
    """An engine was asked how many requests it runs."""

    machine: str
    serial: int
    running: int | None
    """Running or queued in the engine; None: unknown."""
    answered: bool
    """It responded: if `running` is unknown, it does not publish the number."""
    seconds: float
    code: str = ""
    """Why the number is unknown."""


@dataclass(frozen=True)
class NoticeReceived:
    """A machine says that its provider takes it back. The notice is as fresh as `notices.fault_of` demands."""

    notice: MachineNotice
    ahead_s: float = 0.0
    """How far our steady time is ahead of the time of day, by which machines speak."""


@dataclass(frozen=True)
class RecordWritten:
    """A record is in the bucket under this revision."""

    record: MachineRecord
    revision: int


@dataclass(frozen=True)
class Tick:
    """Time has passed."""

    closed: frozenset[str] = frozenset()
    """Tiers whose budget gate is closed by now: none of their machines is woken."""


Event = (
    DemandReported
    | ActivityReported
    | Observed
    | Tested
    | Command
    | Called
    | Probed
    | RequestsCounted
    | NoticeReceived
    | RecordWritten
    | Tick
)


@dataclass(frozen=True)
class StartMachine:
    machine: str
    serial: int
    generation: int


@dataclass(frozen=True)
class StopMachine:
    machine: str
    serial: int
    force: bool = False
    """An earlier stop was called and the machine still runs."""


@dataclass(frozen=True)
class Observe:
    provider: ProviderName


@dataclass(frozen=True)
class TestProvider:
    provider: ProviderName


@dataclass(frozen=True)
class Probe:
    machine: str
    serial: int
    step: ProbeStep
    endpoint: str
    model: str
    timeout_s: float


@dataclass(frozen=True)
class CountRequests:
    """Ask the engine how many requests it runs."""

    machine: str
    serial: int
    endpoint: str
    timeout_s: float


@dataclass(frozen=True)
class Write:
    """Put this record into the bucket before anything else is done."""

    record: MachineRecord


@dataclass(frozen=True)
class Forget:
    machine: str


@dataclass(frozen=True)
class Remember:
    """Put this into the bucket of what a later leader needs."""

    memory: Memory | KeyWakes


@dataclass(frozen=True)
class Journal:
    entry: JournalEntry


Effect = (
    StartMachine | StopMachine | Observe | TestProvider | Probe | CountRequests | Write | Forget | Remember | Journal
)
