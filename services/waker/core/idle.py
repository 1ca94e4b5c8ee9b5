"""When a machine that nobody uses sleeps, and when it is woken before anybody asks. Times are Unix seconds.

- `fixed`: after `timeout` without use.
- `break_even`: after as long as a wake is worth. What a wake costs is the price of the seconds that it is billed and
  useless, and somebody's waiting: both are in proportion to the median of past wakes. To stay awake for just that
  price costs at most twice what knowing the future would. All of a wake counts as billed.
- `histogram` (after Shahrad et al., ATC 2020): by past gaps, see `pattern`. It stays awake until nearly all gaps are
  over. Where nearly all of them are so long that a sleep pays, it sleeps after a minute instead and is woken before
  the shortest of them end.

Without the price or the history that a policy needs, it is `fixed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import NamedTuple

from shared.config.fleet import IdlePolicy, Tier
from shared.config.sections import Config
from shared.weekly_window import WeeklyWindow, parse_window

UNUSED_SECONDS = 120.0
"""For callers that did not wait: twice the longest `Retry-After`."""
HOUR = 3600.0
MINUTE = 60.0
BINS = 240
"""Gaps up to four hours are told apart by their minutes; one more bin counts the longer ones."""
GAPS_KEPT = 2000
"""At so many all counts are halved, so that the histogram follows a change."""
FEWEST_GAPS = 10
MOST_LONGER = 0.5
"""The part of gaps beyond the bins from which on the histogram says nothing."""
LEAST_VARIATION = 2.0
"""The coefficient of variation of the bins' counts below which they are too even to tell anything."""
HEAD, TAIL = 0.05, 0.99
MARGIN = 0.1
"""The head is taken so much earlier, the tail so much later."""


@dataclass(frozen=True, kw_only=True)
class IdleSettings:
    """A tier's policy. Durations are seconds."""

    policy: IdlePolicy
    timeout: float
    min_awake: float = 0.0
    unused_awake: float = UNUSED_SECONDS
    """How long a machine that was woken for somebody stays awake at most while nobody uses it."""
    max_cycles_per_hour: int | None = None
    keep_warm: tuple[WeeklyWindow, ...] = ()
    idle_price: float | None = None
    """USD per second that an idle machine costs more than one asleep; None: unknown, or nothing."""
    wait_price: float = 0.0
    """USD per second of somebody's waiting for a wake."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """What is known of a tier."""

    gaps: tuple[int, ...] = ()
    """How often it was unused for so many whole minutes; see `observed`."""
    wakes: tuple[float, ...] = ()
    """Seconds from asleep to ready, of the last wakes."""


class Pattern(NamedTuple):
    """Seconds without use before which hardly any gap ends, and after which hardly any goes on."""

    head: float
    tail: float


def idle_settings(config: Config, tier: Tier) -> IdleSettings:
    """What the tier says, and for the rest `[waker]`."""
    waker = config.waker
    saved = float(tier.price_per_hour - tier.asleep_price_per_hour) if tier.price_per_hour is not None else 0.0
    min_awake = waker.min_awake if tier.min_awake is None else tier.min_awake
    windows = waker.keep_warm if tier.keep_warm is None else tier.keep_warm
    return IdleSettings(
        policy=tier.idle_policy or waker.idle_policy,
        timeout=waker.idle_timeout if tier.idle_timeout is None else tier.idle_timeout,
        min_awake=min_awake or 0.0,
        unused_awake=UNUSED_SECONDS if min_awake is None else min_awake,
        max_cycles_per_hour=tier.max_cycles_per_hour or waker.max_cycles_per_hour,
        keep_warm=tuple(parse_window(text) for text in windows),
        idle_price=saved / HOUR if saved > 0 else None,
        wait_price=float(waker.wait_price_per_minute) / MINUTE,
    )


def sleep_at(
    settings: IdleSettings,
    past: Past,
    *,
    ready_since: float,
    idle_since: float,
    woken: Sequence[float] = (),
    is_unused: bool = False,
) -> float:
    """When a machine is put to sleep if it stays idle.

    Args:
        ready_since: when it became ready.
        idle_since: its last use, or `ready_since` where it was not used since.
        woken: when it was woken lately.
        is_unused: it was woken for somebody who has not come.
    """
    keep = _keep(settings, past, used=idle_since > ready_since)
    if is_unused:
        keep = min(keep, settings.unused_awake)
    at = max(idle_since + keep, ready_since + settings.min_awake)
    most = settings.max_cycles_per_hour
    if most is not None and len(woken) >= most:
        # So many wakes within the hour: the next one has to wait until the first of them is out of it.
        at = max(at, sorted(woken)[-most] + HOUR)
    return at


def wake_at(settings: IdleSettings, past: Past, *, idle_since: float, asleep_since: float) -> float | None:
    """When the tier is woken before its next use is due; None: when somebody asks. `idle_since` is its last use."""
    found = pattern(past) if settings.policy == "histogram" else None
    ahead = _ahead(found, past) if found else None
    # What falls asleep after that was woken in vain already, or had to stay awake.
    return idle_since + ahead if ahead is not None and idle_since + ahead > asleep_since else None


def warm(settings: IdleSettings, now: float) -> bool:
    """Whether a schedule wants one machine of the tier awake."""
    return any(window.covers(now) for window in settings.keep_warm)


def observed(gaps: tuple[int, ...], seconds: float) -> tuple[int, ...]:
    """One more gap between two uses. One below a minute says nothing about sleeping and is not counted."""
    if seconds < MINUTE:
        return gaps
    counts = list(gaps) + [0] * (BINS + 1 - len(gaps))
    counts[min(int(seconds // MINUTE), BINS)] += 1
    if sum(counts) >= GAPS_KEPT:
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
    """Where gaps begin and cease to end; None where they are too few, too long or too even to say.

    The head is the lower edge of the minute in which the 5th percentile lies, less a tenth; the tail the upper edge
    of that of the 99th, and a tenth. Gaps beyond the bins count in neither.
    """
    counts, longer = past.gaps[:BINS], sum(past.gaps[BINS:])
    known = sum(counts)
    if known + longer < FEWEST_GAPS or longer > MOST_LONGER * (known + longer):
        return None
    if BINS * sum(count * count for count in counts) - known * known < (LEAST_VARIATION * known) ** 2:
        return None
    head, tail = _minute(counts, HEAD * known), _minute(counts, TAIL * known) + 1
    return Pattern(head * MINUTE * (1 - MARGIN), tail * MINUTE * (1 + MARGIN))


def _minute(counts: Sequence[int], rank: float) -> int:
    """The bin in which the cumulated count reaches the rank."""
    seen = 0
    for minute, count in enumerate(counts):
        seen += count
        if seen >= rank:
            return minute
    raise AssertionError("a rank is at most the sum of the counts")


def _keep(settings: IdleSettings, past: Past, *, used: bool) -> float:
    """Seconds to stay awake from the last use on, or from ready where it was not used since."""
    if settings.policy == "break_even":
        even = break_even(settings, past)
        return settings.timeout if even is None else even
    found = pattern(past) if settings.policy == "histogram" else None
    if found is None:
        return settings.timeout
    if _ahead(found, past) is None:
        return found.tail
    # Woken ahead, it was to be ready by the head.
    return MINUTE if used else found.tail - found.head


def _ahead(found: Pattern, past: Past) -> float | None:
    """Seconds after the last use to wake it, so that it is ready by the head; None where a sleep would not pay.

    A sleep begins after a minute, for shorter gaps are not in the histogram, and has to be longer than the wake.
    """
    if not past.wakes:
        return None
    wake = median(past.wakes)
    ahead = found.head - wake
    return ahead if ahead - MINUTE > wake else None
