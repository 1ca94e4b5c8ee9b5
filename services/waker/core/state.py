"""The fleet as one value: each machine, the demand, the gateways, the wakes, the accounts.

Everything here is frozen; `core.fleet` makes the next value. Times are Unix seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.waker.core.events import CallKind, Observation
from services.waker.core.fleet_spec import FleetSpec, MachineSpec
from services.waker.core.history import History
from services.waker.core.key_wakes import KeyAccount
from shared.messages.codec import rfc3339
from shared.messages.gateway import Activity, WakeRequest
from shared.messages.waker import (
    KeyWakes,
    MachineMemory,
    MachineRecord,
    MachineState,
    OperatorWakesMemory,
    Phase,
    WakeMemory,
    WakesMemory,
)

ALARM_FROM = 2
"""Wakes in a row without a ready engine: one may be bad luck, the next is for the operator."""
UNREADY = "its engine did not become ready in "
"""How the alarm of such a machine begins."""
REMEMBER_SECONDS = 15.0
"""How exactly a machine's last use is kept for a later leader: it may fall asleep so much too early then."""


@dataclass(frozen=True)
class Call:
    """A provider call under way."""

    kind: CallKind
    serial: int
    sent_at: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine as the waker knows it."""

    spec: MachineSpec
    state: MachineState | None = None
    since: float = 0.0
    reason: str = ""
    alarm: str = ""
    generation: int = 0
    endpoint: str | None = None
    """Where the engine listens, ready or not."""

    observation: Observation | None = None
    """The provider's last word."""
    seen_at: float = 0.0
    """When it was asked for that."""
    gone_since: float | None = None
    """Since when the provider does not know it, time and again."""

    kept: bool = False
    """The operator's `wake` keeps it awake."""
    cordoned: bool = False
    put_down: bool = False
    """It is to fall asleep whoever wants it: its drain is not called off."""

    wake_id: str | None = None
    key_id: str | None = None
    deadline: float = 0.0
    """Of the wake under way."""
    tried: Mapping[str, int] = field(default_factory=dict)
    """How often each wake under way has started it; one that was only told to come back later has it with 0."""
    woken: tuple[float, ...] = ()
    """When its wakes of the last hour began."""
    phase: Phase | None = None
    phase_since: float = 0.0
    ready_at: float | None = None
    failures: int = 0
    """Wakes that came to nothing since it was last ready."""
    cool_until: float = 0.0
    unready: int = 0
    """Wakes in a row in which its engine had its time and did not become ready."""
    unready_reason: str = ""
    """Of the last of them."""

    serial: int = 0
    """Numbers the calls and probes."""
    call: Call | None = None
    called_at: float = 0.0
    """When the last call was over: what was seen before says nothing about now."""
    stops: int = 0
    """Stop calls of the present falling asleep."""
    stop_after: float = 0.0
    """When to ask again, if it still runs then."""

    reached: bool = False
    """The engine answers; what is asked of it next is one token."""
    max_model_len: int | None = None
    """The longest context, as the engine told it last."""
    probe_serial: int | None = None
    probed_at: float = 0.0
    probe_after: float = 0.0
    probe_failures: int = 0
    probe_code: str = ""
    retold_at: float = 0.0
    """When a probe's reason was put on record last."""

    causes: tuple[str, ...] = ()
    """The keys that its wake is not yet charged to: nobody has used it since."""
    charged_since: float = 0.0

    last_used: float = 0.0
    drain_revision: int | None = None
    """Of the `draining` record; None until it is in the bucket."""

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def lost(self) -> bool:
        """It drains for good: no demand brings it back."""
        return self.put_down or self.cordoned or bool(self.observation and self.observation.leaving)

    @property
    def idle_since(self) -> float:
        return max(self.since, self.last_used)

    @property
    def trouble(self) -> str:
        """What an operator has to see to; empty: nothing."""
        if self.alarm or self.unready < ALARM_FROM:
            return self.alarm
        text = f"{UNREADY}{self.unready} wakes in a row: {self.unready_reason}"
        if self.state == "waking":
            return text
        return f"{text}; not tried again before {rfc3339(self.cool_until)} unless `spotinference wake` asks for it"

    def record(self) -> MachineRecord | None:
        """What the bucket says of it; None before it was seen."""
        if self.state is None:
            return None
        asleep = self.state in ("asleep", "gone")
        return MachineRecord(
            machine=self.id,
            tier=self.spec.tier,
            state=self.state,
            provider_state=self.observation.provider_state if self.observation else "unknown",
            endpoint=self.endpoint if self.state in ("ready", "draining") else None,
            generation=self.generation,
            since=self.since,
            reason=self.reason,
            wake_id=None if asleep else self.wake_id,
            phase=self.phase,
            ready_at=self.ready_at,
            ready_in=None if self.ready_at is None else self.ready_at - self.phase_since,
            key_id=self.key_id,
            kept=self.kept,
            cordoned=self.cordoned,
            alarm=self.trouble,
            failed_wakes=self.unready,
            max_model_len=self.max_model_len,
        )

    def memory(self) -> MachineMemory:
        """What a later leader has to know beside the record."""
        return MachineMemory(
            machine=self.id,
            last_used=self.last_used // REMEMBER_SECONDS * REMEMBER_SECONDS,
            kept=self.kept,
            cordoned=self.cordoned,
            cool_until=self.cool_until,
            failures=self.failures,
            tried=dict(self.tried),
            woken=self.woken,
            unready=self.unready,
            unready_reason=self.unready_reason,
            wake_deadline=self.deadline if self.state == "waking" else 0.0,
            causes=self.causes,
            charged_since=self.charged_since if self.causes else 0.0,
        )


@dataclass(frozen=True)
class Wake:
    """One attempt to make a model answer; it may try several machines."""

    id: str
    deadline: float
    keys: tuple[str, ...] = ()
    """Whose requests waited when it began."""


@dataclass(frozen=True)
class DemandLevel:
    """A gateway's last word about a model."""

    request: WakeRequest
    at: float
    """When it arrived."""

    @property
    def deadline(self) -> float:
        """When the last of the waiting requests gives up. Gateways that say no time left have clocks like ours."""
        left = self.request.seconds_left
        return self.request.deadline if left is None else self.at + left


@dataclass(frozen=True)
class GatewayReport:
    """A gateway's last word about the machines."""

    activity: Activity
    at: float


@dataclass(frozen=True, kw_only=True)
class ProviderHealth:
    """A provider: when it was looked at and tested, and with what success."""

    asked_at: float = 0.0
    """0: no look is under way that could still be answered."""
    looking: bool = False
    looked_at: float = 0.0
    """When the last look that succeeded was asked for."""
    fault: str = ""
    """Of the last look."""
    test_asked_at: float | None = None
    testing: bool = False
    tested: bool = False
    """A self-test passed, and none has failed since."""
    test_faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fleet:
    spec: FleetSpec
    leading_since: float
    machines: Mapping[str, Machine]
    provider_health: Mapping[str, ProviderHealth] = field(default_factory=dict)
    """By provider."""
    demand: Mapping[tuple[str, str], DemandLevel] = field(default_factory=dict)
    """By model and gateway; nothing that is too old, withdrawals included: they overrule what is late."""
    orders: tuple[str, ...] = ()
    """Models that the operator wants awake and that no machine serves for it yet."""
    gateways: Mapping[str, GatewayReport] = field(default_factory=dict)
    """The live ones."""
    wakes: Mapping[str, Wake] = field(default_factory=dict)
    """By model."""
    history: Mapping[str, History] = field(default_factory=dict)
    """By tier."""
    closed: frozenset[str] = frozenset()
    """Tiers that may cost no more today."""
    keys: Mapping[str, KeyAccount] = field(default_factory=dict)
    """What the keys' wakes came to, by key id."""

    def orders_memory(self) -> OperatorWakesMemory:
        return OperatorWakesMemory(models=self.orders)

    def key_message(self, key_id: str) -> KeyWakes:
        """What the bucket says of a key's wakes."""
        under_way = tuple(model for model, wake in self.wakes.items() if key_id in wake.keys)
        return self.keys.get(key_id, KeyAccount()).message(key_id, under_way)

    def wakes_memory(self) -> WakesMemory:
        wakes = {m: WakeMemory(id=w.id, deadline=w.deadline, keys=w.keys) for m, w in self.wakes.items()}
        return WakesMemory(wakes=wakes)
