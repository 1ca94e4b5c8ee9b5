"""How long a tier's wakes took lately, and how long it was unused between uses: for ETAs, hedges and idle policies."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median, quantiles

from services.waker.core.idle import Past, observed
from shared.messages.waker import Phase, TierMemory

PHASES: tuple[Phase, ...] = ("calling", "booting", "reaching", "loading", "first_token")
"""That a wake goes through, in order; a local process has no boot and no network to wait for."""
KEPT = 20
"""Durations kept: enough for a median, few enough to follow a change."""


@dataclass(frozen=True, kw_only=True)
class History:
    """Of one tier. Durations are seconds, the newest last."""

    phases: Mapping[Phase, tuple[float, ...]] = field(default_factory=dict)
    wakes: tuple[float, ...] = ()
    gaps: tuple[int, ...] = ()

    def phase(self, phase: Phase, seconds: float) -> "History":
        durations = (*self.phases.get(phase, ()), max(0.0, seconds))[-KEPT:]
        return replace(self, phases={**self.phases, phase: durations})

    def wake(self, seconds: float) -> "History":
        return replace(self, wakes=(*self.wakes, max(0.0, seconds))[-KEPT:])

    def gap(self, seconds: float) -> "History":
        return replace(self, gaps=observed(self.gaps, seconds))

    def past(self) -> Past:
        return Past(gaps=self.gaps, wakes=self.wakes)

    def expected(self, phase: Phase, phase_since: float) -> float | None:
        """When a wake in this phase will be done: the medians of what is still to go; None without history."""
        if not self.phases.get("first_token"):
            return None
        to_go = PHASES[PHASES.index(phase) :]
        return phase_since + sum(median(self.phases[p]) for p in to_go if self.phases.get(p))

    def usual_most(self) -> float | None:
        """The 95th percentile of its wakes; None without history."""
        if not self.wakes:
            return None
        return quantiles(self.wakes, n=20, method="inclusive")[-1] if len(self.wakes) > 1 else self.wakes[0]

    def memory(self, tier: str) -> TierMemory:
        return TierMemory(tier=tier, phases=dict(self.phases), wakes=self.wakes, gaps=self.gaps)


def remembered(memory: TierMemory) -> History:
    return History(phases=memory.phases, wakes=memory.wakes, gaps=memory.gaps)
