"""What the waker tells Prometheus."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.waker.core.state import Machine
from shared.messages.waker import JournalEntry, MachineState, ProviderCall

STATES: tuple[MachineState, ...] = ("asleep", "waking", "ready", "draining", "falling_asleep", "broken", "gone")
WAKE_SECONDS = (0.5, 1, 2, 5, 10, 20, 40, 60, 120, 240, 480, 600)


class Metrics:
    """Of this process; the journal has the truth."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.leading = Gauge("spot_waker_leading", "1 while this replica leads.", registry=registry)
        self._machines = Gauge("spot_waker_machines", "Machines by state.", ("tier", "state"), registry=registry)
        self._moves = Counter(
            "spot_waker_transitions", "Transitions by state.", ("tier", "to_state"), registry=registry
        )
        self._calls = Counter(
            "spot_waker_provider_calls", "Provider calls and probes.", ("call", "outcome"), registry=registry
        )
        self._tokens = Counter("spot_waker_probe_tokens", "Tokens that probes made engines work.", registry=registry)
        self._wake = Histogram(
            "spot_waker_wake_seconds", "Asleep to ready.", ("tier",), buckets=WAKE_SECONDS, registry=registry
        )

    def told(self, entry: JournalEntry, seconds_waking: float | None) -> None:
        """An entry of the journal. `seconds_waking`: how long the wake took that it ends well, else None."""
        if isinstance(entry, ProviderCall):
            self._calls.labels(entry.call, entry.outcome).inc()
            self._tokens.inc(entry.tokens)
            return
        self._moves.labels(entry.tier, entry.to_state).inc()
        if seconds_waking is not None:
            self._wake.labels(entry.tier).observe(seconds_waking)

    def fleet(self, machines: Iterable[Machine]) -> None:
        found = [(m.plan.tier, m.state) for m in machines if m.state is not None]
        for tier in {tier for tier, _ in found}:
            for state in STATES:
                self._machines.labels(tier, state).set(found.count((tier, state)))
