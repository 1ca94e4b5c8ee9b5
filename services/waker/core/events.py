"""What can happen to the fleet, and what it can ask for, as values. Times are Unix seconds, durations seconds.

Events may be late, doubled or lost: an answer names what it answers by `serial`, a sight when it was asked for.
"""

from dataclasses import dataclass
from typing import Literal

from shared.messages.gateway import Activity, WakeRequest
from shared.messages.waker import CallOutcome, JournalEntry, MachineRecord

CallKind = Literal["start", "stop"]
ProbeStep = Literal["reach", "token"]
"""Whether the engine answers at all; whether it answers one token."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a provider sees of one machine."""

    running: bool
    """Something of it runs, were it only on its way up or down."""
    provider_state: str
    ending: bool = False
    """It runs, and is on its way down."""
    generation: int = 0
    """Of the engine that runs, or ran last; 0: none known."""
    endpoint: str | None = None
    """Known as soon as the engine's process is there."""
    reason: str = ""
    """Why nothing runs any more."""
    ended_at: float | None = None


@dataclass(frozen=True)
class Demand:
    """A gateway's level of demand for a model, current at `at`."""

    request: WakeRequest
    at: float


@dataclass(frozen=True)
class Used:
    """What a gateway does with each machine."""

    activity: Activity


@dataclass(frozen=True)
class Looked:
    machine: str
    sight: Sight
    asked_at: float


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


@dataclass(frozen=True, kw_only=True)
class Probed:
    machine: str
    serial: int
    step: ProbeStep
    answered: bool
    seconds: float
    code: str = ""
    """Why not: an HTTP status or what the network said."""
    tokens: int = 0


@dataclass(frozen=True)
class Written:
    """A record is in the bucket under this revision."""

    record: MachineRecord
    revision: int


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = Demand | Used | Looked | Called | Probed | Written | Tick


@dataclass(frozen=True)
class StartMachine:
    machine: str
    serial: int
    generation: int


@dataclass(frozen=True)
class StopMachine:
    machine: str
    serial: int


@dataclass(frozen=True)
class LookAt:
    machine: str


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
class Journal:
    entry: JournalEntry


Effect = StartMachine | StopMachine | LookAt | Probe | Write | Journal
