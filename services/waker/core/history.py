"""How long a tier's recent wakes took, and how long it was unused between uses: for ETAs, hedges and idle policies."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median, quantiles

from services.waker.core.idle import Past, with_gap
from shared.messages.waker import Phase, TierMemory

PHASES: tuple[Phase, ...] = ("calling", "booting", "reaching", "loading", "first_token")
"""The phases of a wake, in order. A local process has no boot and no network to wait for."""
MAX_DURATIONS = 20
"""Durations kept: enough for a median, few enough to follow a change."""


@dataclass(frozen=True, kw_only=True)
class TierHistory:
    """One tier's history. Durations are seconds, the newest last."""

    phases: Mapping[Phase, tuple[float, ...]] = field(default_factory=dict)
    wakes: tuple[float, ...] = ()
    gaps: tuple[int, ...] = ()

    def with_phase(self, phase: Phase, seconds: float) -> "TierHistory":
        durations = (*self.phases.get(phase, ()), max(0.0, seconds))[-MAX_DURATIONS:]
        return replace(self, phases={**self.phases, phase: durations})

    def with_wake(self, seconds: float) -> "TierHistory":
        return replace(self, wakes=(*self.wakes, max(0.0, seconds))[-MAX_DURATIONS:])

    def with_gap(self, seconds: float) -> "TierHistory":
        return replace(self, gaps=with_gap(self.gaps, seconds))

    def past(self) -> Past:
        return Past(gaps=self.gaps, wakes=self.wakes)

    def expected(self, phase: Phase, phase_since: float) -> float | None:
        """Return when a wake in this phase will be ready, by the medians of the remaining phases; None: no history."""
        if not self.phases.get("first_token"):
            return None
        left = PHASES[PHASES.index(phase) :]
        return phase_since + sum(median(self.phases[p]) for p in left if self.phases.get(p))

    def slow_wake_s(self) -> float | None:
        """The 95th percentile of the tier's wakes in seconds; None without history."""
        if not self.wakes:
            return None
        return quantiles(self.wakes, n=20, method="inclusive")[-1] if len(self.wakes) > 1 else self.wakes[0]

    def memory(self, tier: str) -> TierMemory:
        return TierMemory(tier=tier, phases=dict(self.phases), wakes=self.wakes, gaps=self.gaps)
