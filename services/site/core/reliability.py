"""What the reliability page says: how long wakes took, which failed and where, and how requests were answered."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from services.site.core.distribution import Bin, Distribution, distribution, histogram
from services.site.core.periods import WINDOW_DAYS, day_of, month_of, month_of_day, window_start
from services.site.core.wakes import Wake
from shared.messages.responses import ResponseSums
from shared.messages.waker import Phase
from shared.units import DAY_S, MINUTE_S, to_millis

TARGET_S = 480.0
"""What a wake should take at most."""
EDGES = tuple(minute * MINUTE_S for minute in range(11))
ALL_TIERS = ""
FAILED_IN: Mapping[str, str] = {
    "calling": "Its provider did not start a machine: no capacity, a quota, or no answer.",
    "booting": "The machine did not start.",
    "reaching": "The machine ran, but could not be reached.",
    "loading": "The engine did not load the model.",
    "first_token": "The engine did not produce a token.",
    "": "It ended before a machine was ready.",
}
"""Why a wake failed, by the phase in which its last machine was given up."""


class TierWakes(msgspec.Struct, frozen=True, kw_only=True):
    """The wakes of one tier; of all tiers under ""."""

    tier: str
    seconds: Distribution
    """From the first machine's start to the first token, of the wakes that ended ready."""
    within_target: int
    within_cap: int
    failed: int
    bins: tuple[Bin, ...]


class PhaseSeconds(msgspec.Struct, frozen=True, kw_only=True):
    """One phase of a tier's wakes, where it was passed."""

    tier: str
    phase: str
    seconds: Distribution


class FailedWake(msgspec.Struct, frozen=True, kw_only=True):
    """Failed wakes of one tier with one reason."""

    tier: str
    reason: str
    wakes: int
    last_day: str


class PeriodReliability(msgspec.Struct, frozen=True, kw_only=True):
    """A day or a month. The responses are None where the ledger did not answer, or has none of it yet.

    Success is the share of `succeeded` among `succeeded` and `failed`: as `ResponseSums.judged` says.
    """

    period: str
    wakes: Distribution
    failed_wakes: int
    responses: int | None
    succeeded: int | None
    unavailable: int | None
    timed_out: int | None
    failed: int | None
    success_share: float | None
    """None: none succeeded or failed, or it is not known."""


class PeriodWakes(msgspec.Struct, frozen=True, kw_only=True):
    """The wakes from asleep of a day or a month: how long the ready ones took, and how many failed."""

    wakes: Distribution
    failed: int


NO_WAKES = PeriodWakes(wakes=distribution(()), failed=0)


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """The reliability page."""

    as_of: str
    fault: str | None
    """Why the wakes may not be all; None: the journal was read to its end lately."""
    responses_fault: str | None
    """Why there are no responses; None: the ledger answered."""
    first_day: str
    last_day: str
    """Of the distributions."""
    target_seconds: float
    cap_seconds: float
    tiers: tuple[TierWakes, ...]
    phases: tuple[PhaseSeconds, ...]
    failed: tuple[FailedWake, ...]
    under_way: int
    without_end: int
    """Wakes since `first_day` of which the journal has no end although their cap has passed."""
    not_from_asleep: int
    """Machines since `first_day` that were found running, or were broken: they are no wakes from asleep."""
    days: tuple[PeriodReliability, ...]
    """Newest first."""
    months: tuple[PeriodReliability, ...]
    """Newest first, back to the first wake or response."""


def reliability(
    wakes: Sequence[Wake],
    phases: Iterable[tuple[str, str, float]],
    responses: Mapping[str, ResponseSums] | None,
    *,
    earlier: Mapping[str, PeriodWakes],
    cap_s: float,
    now: float,
    as_of: str,
    fault: str | None,
    responses_fault: str | None,
) -> Reliability:
    """Build the page.

    Args:
        wakes: those since `read_from(now)`.
        earlier: of each month before.
        phases: tier, phase and seconds of each phase that was passed within the window.
        responses: by UTC day; None: not known.
    """
    over = _Over(cap_s, now)
    first = window_start(now)
    begun = [wake for wake in wakes if (wake.began_at or 0) >= to_millis(first)]
    recent = [wake for wake in begun if wake.was_asleep]
    days = [day_of(first + number * DAY_S) for number in range(WINDOW_DAYS)]
    by_month = {**earlier, **_wakes_by(month_of, wakes, over)}
    months = {*by_month, *map(month_of_day, responses or {}), month_of_day(days[-1])}
    tiers = sorted({wake.tier for wake in recent})
    open_states = [over.state(wake) for wake in recent]
    return Reliability(
        as_of=as_of,
        fault=fault,
        responses_fault=responses_fault,
        first_day=days[0],
        last_day=days[-1],
        target_seconds=TARGET_S,
        cap_seconds=cap_s,
        tiers=tuple(_tier(tier, recent, over) for tier in ([ALL_TIERS, *tiers] if tiers else [])),
        phases=_phases(phases),
        failed=_failed(failed_wakes(recent, cap_s=cap_s, now=now)),
        under_way=open_states.count("under_way"),
        without_end=open_states.count("without_end"),
        not_from_asleep=len(begun) - len(recent),
        days=_periods(reversed(days), _wakes_by(day_of, recent, over), responses, lambda day: day),
        months=_periods(sorted(months, reverse=True), by_month, responses, month_of_day),
    )


def month_wakes(wakes: Iterable[Wake], *, cap_s: float, now: float) -> PeriodWakes:
    """Return the figures of one month from its wakes."""
    return _wakes_by(lambda _: "", wakes, _Over(cap_s, now)).get("", NO_WAKES)


def failed_wakes(wakes: Iterable[Wake], *, cap_s: float, now: float) -> list[Wake]:
    """Return the wakes from asleep that no machine answered within their cap."""
    over = _Over(cap_s, now)
    return [wake for wake in wakes if wake.was_asleep and over.state(wake) == "failed"]


def reason_of(wake: Wake) -> str:
    """Return why a wake failed, in public words."""
    return FAILED_IN.get(wake.failed_phase, FAILED_IN[""])


@dataclass(frozen=True)
class _Over:
    """Tells when a wake is over. Until its cap it may be tried again."""

    cap_s: float
    now: float

    def state(self, wake: Wake) -> str:
        """Return `ready`, `failed`, `under_way` or `without_end`."""
        if wake.outcome == "ready":
            return "ready"
        if wake.began_at is not None and self.now < wake.began_at / 1000 + self.cap_s:
            return "under_way"
        return "failed" if wake.outcome == "not_ready" else "without_end"


def _seconds(wake: Wake) -> float:
    assert wake.began_at is not None
    assert wake.ended_at is not None
    return max(0.0, (wake.ended_at - wake.began_at) / 1000)


def _tier(tier: str, wakes: Iterable[Wake], over: _Over) -> TierWakes:
    mine = [wake for wake in wakes if tier in (ALL_TIERS, wake.tier)]
    seconds = [_seconds(wake) for wake in mine if wake.outcome == "ready"]
    return TierWakes(
        tier=tier,
        seconds=distribution(seconds),
        within_target=sum(value <= TARGET_S for value in seconds),
        within_cap=sum(value <= over.cap_s for value in seconds),
        failed=sum(over.state(wake) == "failed" for wake in mine),
        bins=histogram(seconds, edges=EDGES),
    )


def _phases(passed: Iterable[tuple[str, str, float]]) -> tuple[PhaseSeconds, ...]:
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for tier, phase, seconds in passed:
        groups[tier, phase].append(seconds)
    order = list(get_args(Phase))
    return tuple(
        PhaseSeconds(tier=tier, phase=phase, seconds=distribution(groups[tier, phase]))
        for tier, phase in sorted(groups, key=lambda key: (key[0], order.index(key[1])))
    )


def _failed(wakes: Iterable[Wake]) -> tuple[FailedWake, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[str, str], str] = {}
    for wake in wakes:
        key = wake.tier, reason_of(wake)
        counts[key] += 1
        last[key] = max(last.get(key, ""), day_of((wake.began_at or 0) / 1000))
    return tuple(
        FailedWake(tier=tier, reason=reason, wakes=number, last_day=last[tier, reason])
        for (tier, reason), number in sorted(counts.items())
    )


def _periods(
    names: Iterable[str],
    wakes: Mapping[str, PeriodWakes],
    responses: Mapping[str, ResponseSums] | None,
    period_of: Callable[[str], str],
) -> tuple[PeriodReliability, ...]:
    sums: dict[str, ResponseSums] = {}
    for day, more in (responses or {}).items():
        period = period_of(day)
        sums[period] = _add(sums.get(period, ResponseSums(failed=0)), more)
    nothing = None if responses is None else ResponseSums(failed=0)
    return tuple(_period(name, wakes.get(name, NO_WAKES), sums.get(name, nothing)) for name in names)


def _wakes_by(period_of: Callable[[float], str], wakes: Iterable[Wake], over: _Over) -> dict[str, PeriodWakes]:
    """Return the figures of wakes from asleep by the period in which they began."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    failed: Counter[str] = Counter()
    for wake in wakes:
        if not wake.was_asleep or wake.began_at is None:
            continue
        period = period_of(wake.began_at / 1000)
        ready = seconds[period]
        if wake.outcome == "ready":
            ready.append(_seconds(wake))
        elif over.state(wake) == "failed":
            failed[period] += 1
    return {period: PeriodWakes(wakes=distribution(its), failed=failed[period]) for period, its in seconds.items()}


def _period(name: str, of_wakes: PeriodWakes, sums: ResponseSums | None) -> PeriodReliability:
    return PeriodReliability(
        period=name,
        wakes=of_wakes.wakes,
        failed_wakes=of_wakes.failed,
        responses=None if sums is None else sums.responses,
        succeeded=None if sums is None else sums.succeeded,
        unavailable=None if sums is None else sums.unavailable,
        timed_out=None if sums is None else sums.timed_out,
        failed=None if sums is None else sums.failed,
        success_share=sums.succeeded / sums.judged if sums is not None and sums.judged else None,
    )


def _add(one: ResponseSums, other: ResponseSums) -> ResponseSums:
    parts: dict[str, Any] = {}
    for name in ResponseSums.__struct_fields__:
        pair = getattr(one, name), getattr(other, name)
        parts[name] = None if None in pair else sum(pair)
    return ResponseSums(**parts)
