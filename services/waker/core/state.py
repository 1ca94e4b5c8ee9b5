"""The fleet as one immutable value: machines, demand, gateways, wakes, and the health of the providers.

`core.fleet` computes the next value. Times are Unix seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.waker.core.fleet_spec import FleetSpec
from services.waker.core.history import TierHistory
from services.waker.core.key_wakes import KeyAccount
from services.waker.core.machine import Machine
from shared.messages.gateway import Activity, WakeRequest
from shared.messages.waker import KeyWakes, OperatorWakesMemory, WakeMemory, WakesMemory


@dataclass(frozen=True)
class Wake:
    """One attempt to make a model answer; it may try several machines."""

    id: str
    deadline: float
    keys: tuple[str, ...] = ()
    """The keys whose requests were waiting when it began."""


@dataclass(frozen=True)
class DemandLevel:
    """A gateway's latest report of the demand for a model."""

    request: WakeRequest
    at: float
    """When it arrived."""

    @property
    def deadline(self) -> float:
        """When the last waiting request gives up.

        Older gateways do not send the time left; their clocks are taken to agree with ours.
        """
        left = self.request.seconds_left
        return self.request.deadline if left is None else self.at + left


@dataclass(frozen=True)
class GatewayReport:
    """A gateway's latest report of what it does with the machines."""

    activity: Activity
    at: float


@dataclass(frozen=True, kw_only=True)
class ProviderHealth:
    """When a provider was last observed and self-tested, and the result."""

    observe_sent_at: float = 0.0
    """0: no observation is under way that could still be answered."""
    is_observing: bool = False
    observed_at: float = 0.0
    """When the last successful observation was requested."""
    observe_error: str | None = None
    """Why the last observation failed; None if it succeeded."""
    test_sent_at: float | None = None
    is_testing: bool = False
    passed_test: bool = False
    """A self-test has passed, and none has failed since."""
    test_faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Everything that the waker knows."""

    spec: FleetSpec
    leading_since: float
    machines: Mapping[str, Machine]
    provider_health: Mapping[str, ProviderHealth] = field(default_factory=dict)
    """By provider."""
    demand: Mapping[tuple[str, str], DemandLevel] = field(default_factory=dict)
    """By model and gateway. Expired levels are dropped; withdrawals are kept, so that they overrule late reports."""
    operator_wakes: tuple[str, ...] = ()
    """Models that the operator wants awake and that no machine serves for it yet."""
    gateways: Mapping[str, GatewayReport] = field(default_factory=dict)
    """The live gateways."""
    wakes: Mapping[str, Wake] = field(default_factory=dict)
    """By model."""
    history: Mapping[str, TierHistory] = field(default_factory=dict)
    """By tier."""
    closed: frozenset[str] = frozenset()
    """Tiers whose budget is used up for today."""
    keys: Mapping[str, KeyAccount] = field(default_factory=dict)
    """What each key's wakes amount to, by key id."""
    removed: Mapping[str, float] = field(default_factory=dict)
    """Machines that are not configured any more and may still run, each with when its record is deleted."""
    is_outdated: bool = False
    """A waker with a newer configuration has led: what is not configured here may be configured there."""

    def operator_wakes_memory(self) -> OperatorWakesMemory:
        return OperatorWakesMemory(models=self.operator_wakes)

    def key_message(self, key_id: str) -> KeyWakes:
        """The bucket's entry for a key's wakes."""
        under_way = tuple(model for model, wake in self.wakes.items() if key_id in wake.keys)
        return self.keys.get(key_id, KeyAccount()).message(key_id, under_way)

    def wakes_memory(self) -> WakesMemory:
        wakes = {m: WakeMemory(id=w.id, deadline=w.deadline, keys=w.keys) for m, w in self.wakes.items()}
        return WakesMemory(wakes=wakes)
