"""The waker's Prometheus metrics."""

import math
from collections import Counter as Counts
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.waker.core.fleet_spec import FleetSpec
from services.waker.core.policy import oldest_wake_s
from services.waker.core.state import Fleet
from shared.messages.waker import (
    CommandIssued,
    JournalEntry,
    MachineRecord,
    MachineState,
    PhaseEnded,
    ProviderCall,
)

STATES: tuple[MachineState, ...] = ("asleep", "waking", "ready", "draining", "falling_asleep", "broken", "gone")
WAKE_SECONDS = (0.5, 1, 2, 5, 10, 20, 40, 60, 120, 240, 480, 600)


class Metrics:
    """Metrics of this process; the journal is the source of truth."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.leading = Gauge("spot_waker_leading", "1 while this replica leads.", registry=registry)
        self._machines = Gauge("spot_waker_machines", "Machines by state.", ("tier", "state"), registry=registry)
        self._always_on = Gauge(
            "spot_waker_machines_always_on", "Configured machines that never sleep.", ("tier",), registry=registry
        )
        self._transitions = Counter(
            "spot_waker_transitions", "Transitions by state.", ("tier", "to_state"), registry=registry
        )
        self._calls = Counter(
            "spot_waker_provider_calls", "Provider calls and probes.", ("call", "outcome"), registry=registry
        )
        self._tokens = Counter("spot_waker_probe_tokens", "Tokens that probes made engines work.", registry=registry)
        self._wake = Histogram(
            "spot_waker_wake_seconds", "Asleep to ready.", ("tier",), buckets=WAKE_SECONDS, registry=registry
        )
        self._phase = Histogram(
            "spot_waker_phase_seconds",
            "Phases of wakes that were gone through.",
            ("tier", "phase"),
            buckets=WAKE_SECONDS,
            registry=registry,
        )
        self._orders = Counter("spot_waker_orders", "Orders of the operator.", ("order",), registry=registry)
        self._alarms = Gauge("spot_waker_alarms", "Machines that an operator has to see to.", registry=registry)
        self._alarm = Gauge(
            "spot_waker_alarm",
            "1 while a machine needs an operator, by the kind of reason.",
            ("machine", "reason"),
            registry=registry,
        )
        self._oldest_wake = Gauge(
            "spot_waker_oldest_wake_seconds",
            "How long the oldest wake under way takes; 0 if none is.",
            registry=registry,
        )
        self._doubts = Gauge(
            "spot_waker_provider_in_doubt",
            "1 while a provider cannot be looked at or fails its self-test: nothing of it is put to sleep.",
            ("provider",),
            registry=registry,
        )
        self._waking_since: dict[str, float] = {}
        self._tiers: set[str] = set()
        """Those that `spot_waker_machines` has."""
        self.stand_by()

    def show_spec(self, spec: FleetSpec) -> None:
        """Update the gauge that follows from the configuration alone: 0 for a tier whose machines sleep."""
        self._always_on.clear()
        for machine in spec.machines.values():
            self._always_on.labels(machine.tier).inc(not machine.sleeps)

    def show_records(self, records: Iterable[MachineRecord]) -> None:
        """Update the gauges that are the same on every replica: the records are on the bus."""
        shown = list(records)
        by_state = Counts((record.tier, record.state) for record in shown)
        tiers = {record.tier for record in shown}
        for tier in tiers | self._tiers:
            for state in STATES:
                if tier in tiers:
                    self._machines.labels(tier, state).set(by_state[tier, state])
                else:
                    self._machines.remove(tier, state)
        self._tiers = tiers
        alarms = [record for record in shown if record.alarm]
        self._alarms.set(len(alarms))
        self._alarm.clear()
        for record in alarms:
            self._alarm.labels(record.machine, record.alarm_reason or "unknown").set(1)

    def stand_by(self) -> None:
        """Nobody may take this replica's last word for the leader's: what only the leader knows is unknown."""
        self.leading.set(0)
        self._oldest_wake.set(math.nan)
        self._doubts.clear()

    def count(self, entry: JournalEntry) -> None:
        """Count an entry of the journal."""
        match entry:
            case ProviderCall():
                self._calls.labels(entry.call, entry.outcome).inc()
                self._tokens.inc(entry.tokens)
            case PhaseEnded():
                if entry.done:
                    self._phase.labels(entry.tier, entry.phase).observe(entry.seconds)
            case CommandIssued():
                self._orders.labels(entry.order).inc()
            case _:
                self._transitions.labels(entry.tier, entry.to_state).inc()
                since = self._waking_since.pop(entry.machine, None)
                if entry.to_state == "waking":
                    self._waking_since[entry.machine] = entry.at
                elif entry.to_state == "ready" and since is not None:
                    self._wake.labels(entry.tier).observe(entry.at - since)

    def observe_fleet(self, fleet: Fleet, now: float) -> None:
        """Update the gauges of the leader's own work."""
        self._oldest_wake.set(oldest_wake_s(fleet, now))
        for provider, health in fleet.provider_health.items():
            self._doubts.labels(provider).set(health.observe_error is not None or not health.passed_test)
