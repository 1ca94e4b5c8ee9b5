"""One machine as the waker knows it: its state, and one immutable part for each thing that is tracked about it.

`attempt` exists exactly while waking, and `stop` exactly while falling asleep: `Machine.enter` keeps that true. Times
are Unix seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from services.waker.core.engine_checks import IdleCheck, Probing
from services.waker.core.events import CallKind, Observation
from services.waker.core.fleet_spec import MachineSpec
from services.waker.core.provider_view import Notice, ProviderView
from shared.messages.codec import rfc3339
from shared.messages.waker import MachineMemory, MachineRecord, MachineState, Phase

AlarmReason = Literal["in_use", "unready", "does_not_stop", "not_found", "broken", "provider"]
"""The record of a machine that is not configured any more may have `REMOVED` instead."""

ALARM_AFTER_WAKES = 2
"""Wakes in a row without a ready engine: one may be bad luck, the second is for the operator."""
IN_USE = "its engine runs requests that no gateway reports"
UNREADY = "its engine did not become ready in "
"""How the alarm of such a machine begins."""
LAST_USED_STEP_S = 15.0
"""Resolution at which a machine's last use is remembered: a later leader may let it sleep this much too early."""


@dataclass(frozen=True)
class Call:
    """A provider call under way."""

    kind: CallKind
    serial: int
    sent_at: float


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The calls to the provider. Calls, probes and questions share one numbering."""

    last_serial: int = 0
    pending: Call | None = None
    ended_at: float = 0.0
    """When the last call ended: an observation requested before then proves nothing about now."""


@dataclass(frozen=True, kw_only=True)
class OperatorIntent:
    """What the operator's commands ask for."""

    keep_awake: bool = False
    is_cordoned: bool = False
    must_sleep: bool = False
    """It goes to sleep whatever the demand: its drain is not called off."""
    is_forced: bool = False
    """It goes to sleep whatever its engine says."""


@dataclass(frozen=True, kw_only=True)
class WakeAttempt:
    """The wake under way on this machine."""

    deadline: float
    phase: Phase
    phase_since: float
    ready_at: float | None
    """When it is expected to be ready; None without history."""


@dataclass(frozen=True, kw_only=True)
class StartLog:
    """The machine's recent wakes and starts."""

    by_wake: Mapping[str, int] = field(default_factory=dict)
    """Starts for each wake under way; 0 if the provider only asked to try again later."""
    wakes_at: tuple[float, ...] = ()
    """When its wakes of the last hour began."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Failed wakes, and until when the machine is left alone because of them."""

    failed_wakes: int = 0
    """Failed wakes since it was last ready."""
    until: float = 0.0
    unready_wakes: int = 0
    """Wakes in a row in which the engine had its time and did not become ready."""
    unready_reason: str = ""
    """Why the last of those failed."""


@dataclass(frozen=True)
class PendingCharge:
    """The wake's cost, not yet charged because nobody has used the machine since."""

    keys: tuple[str, ...]
    since: float


@dataclass(frozen=True, kw_only=True)
class StopAttempts:
    """The stop calls of the present hibernation."""

    count: int = 0
    retry_at: float = 0.0
    """When to call again if the machine is still running then."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine. Change it with `dataclasses.replace`, and its state with `enter` alone."""

    spec: MachineSpec
    state: MachineState | None = None
    """None: not observed yet."""
    since: float = 0.0
    reason: str = ""
    alarm: str = ""
    generation: int = 0
    endpoint: str | None = None
    """Where the engine listens, ready or not."""
    max_model_len: int | None = None
    """The longest context in tokens that the engine last reported."""
    wake_id: str | None = None
    """The wake under way, or the last one."""
    key_id: str | None = None
    """The key whose request caused that wake."""
    last_used_at: float = 0.0
    drain_revision: int | None = None
    """Revision of the `draining` record; None until it is in the bucket."""
    idle_check: IdleCheck = field(default=IdleCheck())

    calls: Calls = Calls()
    view: ProviderView = field(default=ProviderView())
    notice: Notice | None = None
    operator: OperatorIntent = OperatorIntent()
    attempt: WakeAttempt | None = None
    starts: StartLog = StartLog()
    backoff: Backoff = Backoff()
    charge: PendingCharge | None = None
    probe: Probing = field(default=Probing())
    stop: StopAttempts | None = None
    is_stuck: bool = False
    """It is broken because it would not stop."""

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def observation(self) -> Observation | None:
        return self.view.observation

    @property
    def phase(self) -> Phase | None:
        return None if self.attempt is None else self.attempt.phase

    @property
    def leaving(self) -> str:
        """The provider's words about taking it away; empty if it does not."""
        observed = self.view.observation.leaving if self.view.observation else ""
        return observed or (self.notice.words if self.notice else "")

    @property
    def is_leaving(self) -> bool:
        """It drains for good: no demand brings it back."""
        return self.operator.must_sleep or self.operator.is_cordoned or bool(self.leaving)

    @property
    def idle_since(self) -> float:
        return max(self.since, self.last_used_at)

    @property
    def operator_alarm(self) -> str:
        """What needs the operator's attention; empty if nothing does."""
        if self.alarm or self.backoff.unready_wakes < ALARM_AFTER_WAKES:
            return self.alarm
        text = f"{UNREADY}{self.backoff.unready_wakes} wakes in a row: {self.backoff.unready_reason}"
        if self.state == "waking":
            return text
        return f"{text}; not tried again before {rfc3339(self.backoff.until)} unless `spotinference wake` asks for it"

    @property
    def alarm_reason(self) -> AlarmReason | None:
        """The kind of `operator_alarm`; None without one."""
        if not self.operator_alarm:
            return None
        if self.alarm == IN_USE:
            return "in_use"
        if not self.alarm:
            return "unready"
        if self.state == "broken":
            return "does_not_stop" if self.is_stuck else "broken"
        return "not_found" if self.state == "gone" else "provider"

    def enter(
        self,
        state: MachineState,
        reason: str,
        at: float,
        *,
        alarm: str | None = None,
        attempt: WakeAttempt | None = None,
        stop: StopAttempts | None = None,
    ) -> "Machine":
        """The machine in another state, without the parts that belong to the state it leaves.

        Args:
            alarm: the new alarm; None keeps the present one, unless the machine is well again.
            attempt: the wake that begins; required for `waking`, and only there.
            stop: the hibernation that begins; required for `falling_asleep`, and only there.
        """
        assert (attempt is not None) == (state == "waking"), "an attempt exists exactly while waking"
        assert (stop is not None) == (state == "falling_asleep"), "a stop exists exactly while falling asleep"
        is_well = state in ("asleep", "ready", "waking")
        # The order to hibernate a machine that broke before it was followed holds when it is well again.
        is_over = is_well and not (self.state == "broken" and state == "ready")
        is_down = state in ("asleep", "falling_asleep", "broken", "gone")
        if alarm is None:
            alarm = "" if is_well else self.alarm
        return replace(
            self,
            state=state,
            since=at,
            reason=reason,
            alarm=alarm,
            endpoint=self.spec.endpoint if is_down else self.endpoint,
            drain_revision=None,
            notice=None if state in ("asleep", "gone") else self.notice,
            idle_check=IdleCheck(),
            operator=replace(self.operator, must_sleep=False, is_forced=False) if is_over else self.operator,
            attempt=attempt,
            probe=replace(self.probe, serial=None, is_reachable=self.probe.is_reachable and not is_down),
            stop=stop,
            is_stuck=state == "broken" and self.state == "falling_asleep",
        )

    def record(self) -> MachineRecord | None:
        """The machine's public record; None until it has been observed."""
        if self.state is None:
            return None
        is_off = self.state in ("asleep", "gone")
        attempt = self.attempt
        ready_at = None if attempt is None else attempt.ready_at
        return MachineRecord(
            machine=self.id,
            tier=self.spec.tier,
            state=self.state,
            provider_state=self.observation.provider_state if self.observation else "unknown",
            endpoint=self.endpoint if self.state in ("ready", "draining") else None,
            generation=self.generation,
            since=self.since,
            reason=self.reason,
            wake_id=None if is_off else self.wake_id,
            phase=self.phase,
            ready_at=ready_at,
            ready_in=None if attempt is None or ready_at is None else ready_at - attempt.phase_since,
            key_id=self.key_id,
            kept=self.operator.keep_awake,
            cordoned=self.operator.is_cordoned,
            alarm=self.operator_alarm,
            alarm_reason=self.alarm_reason or "",
            failed_wakes=self.backoff.unready_wakes,
            max_model_len=self.max_model_len,
        )

    def memory(self) -> MachineMemory:
        """What a later leader needs beside the record."""
        return MachineMemory(
            machine=self.id,
            last_used=self.last_used_at // LAST_USED_STEP_S * LAST_USED_STEP_S,
            kept=self.operator.keep_awake,
            cordoned=self.operator.is_cordoned,
            cool_until=self.backoff.until,
            failures=self.backoff.failed_wakes,
            tried=dict(self.starts.by_wake),
            woken=self.starts.wakes_at,
            unready=self.backoff.unready_wakes,
            unready_reason=self.backoff.unready_reason,
            wake_deadline=0.0 if self.attempt is None else self.attempt.deadline,
            causes=() if self.charge is None else self.charge.keys,
            charged_since=0.0 if self.charge is None else self.charge.since,
        )
