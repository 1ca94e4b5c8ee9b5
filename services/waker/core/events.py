"""What can happen to the fleet, and what it can ask for, as values. Times are Unix seconds, durations seconds.

Events may be late, doubled or lost: an answer names what it answers by `serial`, a sight when it was asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shared.config.providers import ProviderName
from shared.messages.gateway import Activity, WakeRequest
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
"""Whether the engine answers at all; whether it does what its model is for: one token, or one embedding."""


PowerState = Literal["stopped", "starting", "running", "stopping", "stopped_billed", "error", "not_found"]
"""What a provider sees, in our words: asleep, coming, there, going, off and yet billed, broken and not billed, unknown
to it or deleted for good."""

RefusalScope = Literal["", "transient", "machine", "capacity_pool", "quota", "account"]
"""What a refusal concerns: only this moment (its state is changing), this machine (permission, its own limits), its
capacity pool (no room for its type in its zone), its quota (of an instance family and market), or the whole account
(credentials, balance)."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a provider sees of one machine."""

    power: PowerState
    provider_state: str
    """The provider's own word."""
    generation: int | None = None
    """Of the engine that runs, or ran last. None: the provider counts none."""
    endpoint: str | None = None
    """Where its engine listens; None: not known yet, or as configured."""
    reason: str = ""
    """Why nothing runs any more."""
    ended_at: float | None = None
    scope: RefusalScope = ""
    """Of a start that was accepted and came to nothing: whom that concerns."""
    pool: str = ""
    """Names its capacity pool: type, zone and market. Empty: unknown, so a refusal concerns no other machine."""
    quota: str = ""
    """Names the quota that it counts against: instance family and market."""
    leaving: str = ""
    """The provider is about to take it away: its words."""
    locked: str = ""
    """It is off and we may not start it: why."""

    @property
    def running(self) -> bool:
        """Something of it runs, were it only on its way up or down."""
        return self.power in ("starting", "running", "stopping")

    @property
    def ending(self) -> bool:
        return self.power == "stopping"

    @property
    def billed(self) -> bool:
        return self.power in ("running", "stopped_billed")


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A machine that carries our fleet's mark and is not configured. Its id is `PROVIDER:INSTANCE`."""

    id: str
    provider: ProviderName
    observation: Observation


@dataclass(frozen=True)
class DemandReported:
    """A gateway's level of demand for a model, which arrived at `at` by our clock."""

    request: WakeRequest
    at: float


@dataclass(frozen=True)
class ActivityReported:
    """What a gateway does with each machine."""

    activity: Activity


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One look at a provider. A machine of which it says nothing was not seen: that proves nothing."""

    provider: ProviderName
    asked_at: float
    observations: Mapping[str, Observation]
    orphans: tuple[Orphan, ...] = ()
    fault: str = ""
    """Why it could not look."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A provider's self-test: may we start and stop, does its clock agree with ours?"""

    provider: ProviderName
    faults: tuple[str, ...]
    """Each with the machine or the permission that it is about and the fix; none: all is well."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """The operator's word."""

    order: CommandKind
    target: str
    by: str


@dataclass(frozen=True, kw_only=True)
class Called:
    """A provider call's outcome. `accepted` says that it is under way, not that it is done."""

    machine: str
    call: CallKind
    serial: int
    outcome: CallOutcome
    seconds: float
    code: str = ""
    reason: str = ""
    endpoint: str | None = None
    generation: int | None = None
    """Of an engine that only slept; None: as it was asked for."""
    scope: RefusalScope = ""


@dataclass(frozen=True, kw_only=True)
class Probed:
    machine: str
    serial: int
    step: ProbeStep
    answered: bool
    seconds: float
    host: bool = False
    """Something of the machine answered, be it with a refusal: its network is up."""
    wrong: str = ""
    """It answers, and is no engine of this model: what it is."""
    code: str = ""
    """Why not: an HTTP status or what the network said."""
    tokens: int = 0
    max_model_len: int | None = None
    """The longest context in tokens, where the engine tells it."""


@dataclass(frozen=True)
class RecordWritten:
    """A record is in the bucket under this revision."""

    record: MachineRecord
    revision: int


@dataclass(frozen=True)
class Tick:
    """Time has passed."""

    closed: frozenset[str] = frozenset()
    """The tiers whose budget gate is closed by now: none of their machines is woken."""


Event = DemandReported | ActivityReported | Observed | Tested | Command | Called | Probed | RecordWritten | Tick


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
    """It was asked before and still runs."""


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
    timeout: float


@dataclass(frozen=True)
class Write:
    """Put this into the bucket, before anything else is done."""

    record: MachineRecord


@dataclass(frozen=True)
class Remember:
    """Put this into the bucket of what a later leader has to know."""

    memory: Memory | KeyWakes


@dataclass(frozen=True)
class Journal:
    entry: JournalEntry


Effect = StartMachine | StopMachine | Observe | TestProvider | Probe | Write | Remember | Journal
