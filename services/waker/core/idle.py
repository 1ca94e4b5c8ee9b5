"""When an idle machine is put to sleep, and when it is woken ahead of demand. Times are Unix seconds.

- `fixed`: after `timeout` without use.
- `break_even`: after as long as a wake is worth. A wake costs the price of the seconds that are billed and useless, and
  somebody's waiting; both are proportional to the median of past wakes. Staying awake for just that price costs at
  most twice what knowing the future would. The whole wake counts as billed.
- `histogram` (after Shahrad et al., ATC 2020): from past gaps, see `pattern`. The machine stays awake until nearly all
  gaps are over. If nearly all of them are long enough for a sleep to pay, it sleeps after a minute instead and is woken
  before the shortest of them end.

A policy that lacks the price or the history it needs acts like `fixed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import NamedTuple

from shared.config.fleet import IdlePolicy, Tier
from shared.config.sections import Config
from shared.units import HOUR_S, MINUTE_S
from shared.weekly_window import WeeklyWindow, parse_window

UNUSED_AWAKE_S = 120.0
"""For callers that come back instead of waiting: twice the longest `Retry-After`."""
BINS = 240
"""Gaps of up to four hours are counted by the minute; one more bin counts the longer ones."""
MAX_GAPS = 2000
"""At this sum all counts are halved, so that the histogram follows changes."""
MIN_GAPS = 10
MAX_LONGER = 0.5
"""Beyond this fraction of gaps longer than the bins, the histogram says nothing."""
MIN_VARIATION = 2.0
"""Below this coefficient of variation, the bins' counts are too even to say anything."""
HEAD, TAIL = 0.05, 0.99
MARGIN = 0.1
"""The head is taken this fraction earlier, and the tail later."""


@dataclass(frozen=True, kw_only=True)
class IdleSettings:
    """A tier's policy. Durations are seconds."""

    policy: IdlePolicy
    timeout: float
    min_awake: float = 0.0
    unused_awake: float = UNUSED_AWAKE_S
    """The longest that a machine woken for a key stays awake while nobody uses it."""
    max_cycles_per_hour: int | None = None
    keep_warm: tuple[WeeklyWindow, ...] = ()
    idle_price: float | None = None
    """USD per second by which an idle machine costs more than one asleep; None: unknown, or nothing."""
    wait_price: float = 0.0
    """USD per second that a request waits for a wake."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """What is known of a tier's past."""

    gaps: tuple[int, ...] = ()
    """At index n, how often it was unused for n whole minutes; see `with_gap`."""
    wakes: tuple[float, ...] = ()
    """Seconds from asleep to ready of the last wakes."""


class Pattern(NamedTuple):
    """Seconds without use before which hardly any gap ends, and after which hardly any continues."""

    head: float
    tail: float


def idle_settings(config: Config, tier: Tier) -> IdleSettings:
    """The tier's own settings, completed by those of `[waker]`."""
    waker = config.waker
    saved = float(tier.price_per_hour - tier.asleep_price_per_hour) if tier.price_per_hour is not None else 0.0
    min_awake = waker.min_awake if tier.min_awake is None else tier.min_awake
    windows = waker.keep_warm if tier.keep_warm is None else tier.keep_warm
    return IdleSettings(
        policy=tier.idle_policy or waker.idle_policy,
        timeout=waker.idle_timeout if tier.idle_timeout is None else tier.idle_timeout,
        min_awake=min_awake or 0.0,
        unused_awake=UNUSED_AWAKE_S if min_awake is None else min_awake,
        max_cycles_per_hour=tier.max_cycles_per_hour or waker.max_cycles_per_hour,
        keep_warm=tuple(parse_window(text) for text in windows),
        idle_price=saved / HOUR_S if saved > 0 else None,
        wait_price=float(waker.wait_price_per_minute) / MINUTE_S,
    )


def sleep_at(
    settings: IdleSettings,
    past: Past,
    *,
    ready_since: float,
    idle_since: float,
    wakes_at: Sequence[float] = (),
    is_unused: bool = False,
) -> float:
    """When a machine is put to sleep if it stays idle.

    Args:
        ready_since: when it became ready.
        idle_since: its last use, or `ready_since` if it was not used since.
        wakes_at: when its recent wakes began.
        is_unused: it was woken for a key that has not used it.
    """
    keep_s = _keep_awake_s(settings, past, was_used=idle_since > ready_since)
    if is_unused:
        keep_s = min(keep_s, settings.unused_awake)
    at = max(idle_since + keep_s, ready_since + settings.min_awake)
    limit = settings.max_cycles_per_hour
    if limit is not None and len(wakes_at) >= limit:
        # The hour's wakes are used up: the next one must wait until the first of them is an hour old.
        at = max(at, sorted(wakes_at)[-limit] + HOUR_S)
    return at


def wake_at(settings: IdleSettings, past: Past, *, idle_since: float, asleep_since: float) -> float | None:
    """When the tier is woken ahead of its next use; None: only on demand. `idle_since` is its last use."""
    gaps = pattern(past) if settings.policy == "histogram" else None
    wake_after_s = _wake_after_s(gaps, past) if gaps else None
    # A machine that fell asleep after that moment was woken in vain already, or had to stay awake.
    if wake_after_s is None or idle_since + wake_after_s <= asleep_since:
        return None
    return idle_since + wake_after_s


def is_scheduled(settings: IdleSettings, now: float) -> bool:
    """Whether a schedule wants one machine of the tier awake."""
    return any(window.covers(now) for window in settings.keep_warm)


def with_gap(gaps: tuple[int, ...], seconds: float) -> tuple[int, ...]:
    """The histogram with one more gap. A gap below a minute says nothing about sleeping and is not counted."""
    if seconds < MINUTE_S:
        return gaps
    counts = list(gaps) + [0] * (BINS + 1 - len(gaps))
    counts[min(int(seconds // MINUTE_S), BINS)] += 1
    if sum(counts) >= MAX_GAPS:
        counts = [count // 2 for count in counts]
    return tuple(counts)


def break_even(settings: IdleSettings, past: Past) -> float | None:
    """Seconds of idleness that cost as much as a wake; None without price or history."""
    if settings.idle_price is None or not past.wakes:
        return None
    wake_cost = median(past.wakes) * (settings.idle_price + settings.wait_price)
    return wake_cost / settings.idle_price


@lru_cache(maxsize=64)
def pattern(past: Past) -> Pattern | None:
    """Between which durations nearly all gaps end; None if they are too few, too long or too even to say.

    The head is the lower edge of the 5th percentile's minute, less a tenth; the tail is the upper edge of the 99th
    percentile's minute, plus a tenth. Gaps beyond the bins count in neither.
    """
    counts, longer = past.gaps[:BINS], sum(past.gaps[BINS:])
    known = sum(counts)
    if known + longer < MIN_GAPS or longer > MAX_LONGER * (known + longer):
        return None
    if BINS * sum(count * count for count in counts) - known * known < (MIN_VARIATION * known) ** 2:
        return None
    head, tail = _minute(counts, HEAD * known), _minute(counts, TAIL * known) + 1
    return Pattern(head * MINUTE_S * (1 - MARGIN), tail * MINUTE_S * (1 + MARGIN))


def _minute(counts: Sequence[int], rank: float) -> int:
    """The bin in which the cumulative count reaches the rank."""
    total = 0
    for minute, count in enumerate(counts):
        total += count
        if total >= rank:
            return minute
    raise AssertionError("a rank is at most the sum of the counts")


def _keep_awake_s(settings: IdleSettings, past: Past, *, was_used: bool) -> float:
    """Seconds to stay awake after the last use, or after becoming ready if there was none."""
    if settings.policy == "break_even":
        even = break_even(settings, past)
        return settings.timeout if even is None else even
    gaps = pattern(past) if settings.policy == "histogram" else None
    if gaps is None:
        return settings.timeout
    if _wake_after_s(gaps, past) is None:
        return gaps.tail
    # It was woken ahead, to be ready by the head.
    return MINUTE_S if was_used else gaps.tail - gaps.head


def _wake_after_s(gaps: Pattern, past: Past) -> float | None:
    """Seconds after the last use to begin a wake that is ready by the head; None if a sleep would not pay.

    A sleep begins after a minute, since the histogram has no shorter gaps, and must be longer than the wake.
    """
    if not past.wakes:
        return None
    wake_s = median(past.wakes)
    after_s = gaps.head - wake_s
    return after_s if after_s - MINUTE_S > wake_s else None
