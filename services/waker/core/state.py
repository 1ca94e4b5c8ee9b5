"""The fleet as one value: each machine, the demand, the gateways, the wakes; and which moves are legal.

Everything here is frozen; `core.fleet` makes the next value. Times are Unix seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.waker.core.events import CallKind
from services.waker.core.plan import MachinePlan, Plan
from shared.messages.gateway import Activity, WakeRequest
from shared.messages.waker import MachineRecord, MachineState, Phase


def _to(*states: MachineState) -> frozenset[MachineState]:
    return frozenset((*states, "broken", "gone"))


MOVES: Mapping[MachineState | None, frozenset[MachineState]] = {
    None: _to("asleep", "waking", "ready"),
    "asleep": _to("waking"),
    "waking": _to("ready", "falling_asleep", "asleep"),
    "ready": _to("draining", "asleep"),
    "draining": _to("ready", "falling_asleep", "asleep"),
    "falling_asleep": _to("asleep"),
    "broken": _to("asleep", "waking", "falling_asleep", "ready") - {"broken"},
    "gone": frozenset(),
}
"""None: not seen yet."""

PHASES: tuple[Phase, ...] = ("calling", "loading", "first_token")
"""That a wake of a local process goes through, in order."""


class IllegalMove(RuntimeError):
    """A defect of ours: the table of moves does not have it."""


@dataclass(frozen=True)
class Call:
    """A provider call under way."""

    kind: CallKind
    serial: int
    sent_at: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine as the waker knows it."""

    plan: MachinePlan
    state: MachineState | None = None
    since: float = 0.0
    reason: str = ""
    provider_state: str = "unknown"
    generation: int = 0
    endpoint: str | None = None
    """Where the engine's process listens, ready or not."""

    wake_id: str | None = None
    key_id: str | None = None
    deadline: float = 0.0
    """Of the wake under way."""
    tried: tuple[str, int] = ("", 0)
    """The last wake that started it, and how often."""
    phase: Phase | None = None
    phase_since: float = 0.0
    ready_at: float | None = None
    failures: int = 0
    """Wakes that came to nothing since it was last ready."""
    cool_until: float = 0.0

    serial: int = 0
    """Numbers the calls and probes."""
    call: Call | None = None
    called_at: float = 0.0
    """When the last call was over: what was seen before says nothing about now."""
    stops: int = 0
    """Stop calls of the present falling asleep."""
    stop_after: float = 0.0
    """When to ask again, if it still runs then."""
    looked_at: float = 0.0

    reached: bool = False
    """The engine answers; what is asked of it next is one token."""
    probe_serial: int | None = None
    probed_at: float = 0.0
    probe_after: float = 0.0
    probe_failures: int = 0
    probe_code: str = ""

    last_used: float = 0.0
    drain_revision: int | None = None
    """Of the `draining` record; None until it is in the bucket."""

    @property
    def id(self) -> str:
        return self.plan.id

    def record(self) -> MachineRecord | None:
        """What the bucket says of it; None before it was seen."""
        if self.state is None:
            return None
        asleep = self.state in ("asleep", "gone")
        return MachineRecord(
            machine=self.id,
            tier=self.plan.tier,
            state=self.state,
            provider_state=self.provider_state,
            endpoint=self.endpoint if self.state in ("ready", "draining") else None,
            generation=self.generation,
            since=self.since,
            reason=self.reason,
            wake_id=None if asleep else self.wake_id,
            phase=self.phase,
            ready_at=self.ready_at,
            key_id=self.key_id,
        )


@dataclass(frozen=True)
class Wake:
    """One attempt to make a model answer; it may try several machines."""

    id: str
    deadline: float
    key_id: str


@dataclass(frozen=True)
class Wanted:
    """A gateway's last word about a model."""

    request: WakeRequest
    at: float


@dataclass(frozen=True)
class Heard:
    """A gateway's last word about the machines."""

    activity: Activity
    at: float


History = Mapping[tuple[str, Phase], tuple[float, ...]]
"""Tier and phase to how long it took lately."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    plan: Plan
    leading_since: float
    machines: Mapping[str, Machine]
    demand: Mapping[tuple[str, str], Wanted] = field(default_factory=dict)
    """By model and gateway; nothing that is too old, withdrawals included: they overrule what is late."""
    gateways: Mapping[str, Heard] = field(default_factory=dict)
    """The live ones."""
    wakes: Mapping[str, Wake] = field(default_factory=dict)
    """By model."""
    history: History = field(default_factory=dict)
