"""Wakes, made from the journal's entries."""

import itertools
import random
from collections.abc import Iterable
from hashlib import sha256
from typing import get_args

import pytest

from services.site.app.wake_months import WakeMonths
from services.site.core.reliability import FAILED_IN, Reliability, reliability
from services.site.core.wakes import MOST_CHARACTERS, Wake, WakeFact, fact_of, fold
from shared.messages.budget import Journalled
from shared.messages.codec import Unreadable, encode
from shared.messages.responses import ResponseSums
from shared.messages.waker import CommandIssued, MachineState, Phase, ProviderCall
from shared.units import DAY_S, Millis
from tests.unit.site.journal import KEY, NOON, phase, transition, whole_wake

CAP_S = 600.0


def facts(entries: Iterable[Journalled]) -> list[WakeFact]:
    made = (fact_of(entry, sha256(encode(entry)).hexdigest()) for entry in entries)
    return [fact for fact in made if fact is not None]


def wakes(entries: Iterable[Journalled]) -> list[Wake]:
    ordered = sorted(facts(entries), key=lambda fact: fact.wake_id)
    return [fold(wake_id, its) for wake_id, its in itertools.groupby(ordered, key=lambda fact: fact.wake_id)]


def page(entries: Iterable[Journalled], *, now: float = NOON + 7200, **fields: ResponseSums) -> Reliability:
    days = {name.replace("_", "-")[1:]: sums for name, sums in fields.items()}
    return reliability(
        wakes(entries), [], days, earlier={}, cap_s=CAP_S, now=now, as_of="", fault=None, responses_fault=None
    )


def test_wake_lasts_from_asleep_to_ready() -> None:
    (wake,) = wakes(whole_wake(NOON, 90.0, wake="w1"))
    assert (wake.outcome, wake.tier, wake.key_id, wake.attempts) == ("ready", "h100x2", KEY, 1)
    assert wake.began_at == NOON * 1000
    assert wake.ended_at == (NOON + 90) * 1000


def test_wake_over_two_tiers_lasts_from_the_first_start_and_counts_where_it_was_ready() -> None:
    (wake,) = wakes(
        [
            transition(NOON, "asleep", "waking", machine="a", tier="spot"),
            phase(NOON + 20, "calling", 20.0, done=False, machine="a", tier="spot"),
            transition(NOON + 20, "waking", "asleep", machine="a", tier="spot"),
            transition(NOON + 21, "asleep", "waking", machine="b", tier="on-demand"),
            transition(NOON + 100, "waking", "ready", machine="b", tier="on-demand"),
        ]
    )
    assert (wake.outcome, wake.tier, wake.attempts, wake.failed_phase) == ("ready", "on-demand", 2, "")
    assert wake.began_at == NOON * 1000


def test_loser_of_a_hedged_wake_is_no_failed_wake() -> None:
    shown = page(
        [
            transition(NOON, "asleep", "waking", machine="a"),
            transition(NOON + 60, "asleep", "waking", machine="b"),
            transition(NOON + 90, "waking", "ready", machine="b"),
            phase(NOON + 91, "loading", 30.0, done=False, machine="a"),
            transition(NOON + 91, "waking", "falling_asleep", machine="a"),
        ]
    )
    assert (shown.tiers[0].seconds.count, shown.tiers[0].failed, shown.failed) == (1, 0, ())


@pytest.mark.parametrize("failed_phase", get_args(Phase))
def test_failed_wake_has_the_public_words_of_its_phase(failed_phase: Phase) -> None:
    shown = page(
        [
            transition(NOON, "asleep", "waking"),
            phase(NOON + 500, failed_phase, 500.0, done=False),
            transition(NOON + 500, "waking", "falling_asleep"),
        ]
    )
    (failure,) = shown.failed
    assert (failure.tier, failure.wakes, failure.last_day) == ("h100x2", 1, "2026-11-23")
    assert failure.reason == FAILED_IN[failed_phase]
    assert "not public" not in failure.reason


def test_wake_between_two_attempts_is_under_way_until_its_cap() -> None:
    entries = [transition(NOON, "asleep", "waking"), transition(NOON + 20, "waking", "asleep")]
    early, late = page(entries, now=NOON + 30), page(entries, now=NOON + CAP_S + 1)
    assert (early.under_way, early.tiers[0].failed) == (1, 0)
    assert (late.under_way, late.tiers[0].failed) == (0, 1)


def test_wake_without_an_end_is_neither_ready_nor_failed() -> None:
    shown = page([transition(NOON, "asleep", "waking")])
    assert (shown.under_way, shown.without_end, shown.tiers[0].failed, shown.tiers[0].seconds.count) == (0, 1, 0, 0)


@pytest.mark.parametrize("before", [None, "broken", "gone"])
def test_adopted_machine_makes_no_wake(before: MachineState | None) -> None:
    shown = page(
        [
            transition(NOON, before, "waking"),
            transition(NOON + 2, "waking", "ready"),
        ]
    )
    assert (shown.tiers, shown.not_from_asleep) == ((), 1)


def test_wake_whose_beginning_the_journal_lacks_is_not_counted() -> None:
    assert page([transition(NOON, "waking", "ready")]).tiers == ()


def test_order_and_repetition_of_entries_change_nothing() -> None:
    entries = [*whole_wake(NOON, 90.0, wake="w1"), *whole_wake(NOON + 9000, 60.0, wake="w2", machine="m2")]
    expected = wakes(entries)
    for seed in range(20):
        shuffled = entries + entries[::2]
        random.Random(seed).shuffle(shuffled)
        unique = {encode(entry): entry for entry in shuffled}
        assert wakes(unique.values()) == expected


def test_unrelated_entries_make_no_fact() -> None:
    others: list[Journalled] = [
        ProviderCall(at=NOON, machine="m1", call="start", outcome="accepted", code="", seconds=1.0),
        CommandIssued(at=NOON, machine="m1", order="hibernate", by="somebody"),
        transition(NOON, "asleep", "waking", wake=None),
        transition(NOON, "ready", "draining"),
        phase(NOON, "loading", 1.0, wake=""),
    ]
    assert facts(others) == []


@pytest.mark.parametrize("name", ["a\0b", "x" * (MOST_CHARACTERS + 1)])
def test_name_that_no_table_holds_is_unreadable(name: str) -> None:
    with pytest.raises(Unreadable):
        fact_of(transition(NOON, "asleep", "waking", wake=name), "id")


def test_percentiles_are_those_of_the_sorted_values() -> None:
    seconds = [float(10 + 7 * i % 400) for i in range(37)]
    entries = [
        entry
        for i, value in enumerate(seconds)
        for entry in whole_wake(NOON + i * 10, value, wake=f"w{i}", machine=f"m{i}")
    ]
    shown, ordered = page(entries, now=NOON + 9000).tiers[0], sorted(seconds)
    assert (shown.seconds.count, shown.seconds.worst) == (37, max(seconds))
    assert (shown.seconds.p50, shown.seconds.p95) == (ordered[18], ordered[35]), (
        "19 and 36 of 37: 35 are fewer than 95 %"
    )
    assert sum(one.count for one in shown.bins) == 37


@pytest.mark.parametrize(
    ("seconds", "within_target", "within_cap", "place"),
    [(480.0, 1, 1, 8), (480.5, 0, 1, 8), (600.0, 0, 1, 10), (600.5, 0, 0, 10), (59.9, 1, 1, 0)],
)
def test_wake_is_held_against_eight_and_ten_minutes(
    seconds: float, within_target: int, within_cap: int, place: int
) -> None:
    (shown, _) = page(whole_wake(NOON, seconds, wake="w")).tiers
    assert (shown.within_target, shown.within_cap) == (within_target, within_cap)
    assert [one.count for one in shown.bins].index(1) == place


def test_months_stay_and_days_go() -> None:
    old = whole_wake(NOON - 400 * 86400, 90.0, wake="old")
    shown = page(
        [*old, *whole_wake(NOON, 60.0, wake="new", machine="m2")],
        d2024_01_31=ResponseSums(responses=20, succeeded=9, unavailable=4, failed=1),
        d2026_11_23=ResponseSums(responses=4, succeeded=2, timed_out=1, failed=1),
        d2026_11_01=ResponseSums(responses=6, succeeded=6),
    )
    months = {row.period: row for row in shown.months}
    assert list(months) == ["2026-11", "2025-10", "2024-01"]
    assert (months["2025-10"].wakes.count, months["2025-10"].wakes.p50) == (1, 90.0)
    assert (months["2025-10"].responses, months["2025-10"].success_share) == (0, None)
    assert (months["2026-11"].responses, months["2026-11"].succeeded, months["2026-11"].timed_out) == (10, 8, 1)
    assert (months["2024-01"].success_share, months["2026-11"].success_share) == (0.9, None)
    assert [row.period for row in shown.days][:2] == ["2026-11-23", "2026-11-22"]
    assert len(shown.days) == 30
    assert shown.days[0].responses == 4


class CountingHistory:
    """Wakes in memory, and how many of them were read."""

    def __init__(self, kept: list[Wake]) -> None:
        self.kept = kept
        self.read = 0

    async def first(self) -> Millis | None:
        return min((wake.began_at for wake in self.kept if wake.began_at is not None), default=None)

    async def wakes(self, since: Millis, until: Millis | None = None) -> list[Wake]:
        its_wakes = [
            w for w in self.kept if (w.began_at or 0) >= since and (until is None or (w.began_at or 0) < until)
        ]
        self.read += len(its_wakes)
        return its_wakes

    async def phases(self, since: Millis) -> list[tuple[str, str, float]]:
        return []


async def test_months_that_are_over_are_read_once_when_the_journal_is_whole() -> None:
    ages = (40, 70, 71, 400)
    entries = [e for days in ages for e in whole_wake(NOON - days * DAY_S, 60.0 + days, wake=f"w{days}")]
    failed = [transition(NOON - 69 * DAY_S, "asleep", "waking"), transition(NOON - 69 * DAY_S, "waking", "asleep")]
    history = CountingHistory(wakes([*entries, *failed]))
    months = WakeMonths(history, cap_s=CAP_S, now=lambda: NOON)
    earlier = await months.earlier(is_whole=False)
    assert {name: (its.wakes.count, its.wakes.worst, its.failed) for name, its in earlier.items()} == {
        "2025-10": (1, 460.0, 0),
        "2026-09": (2, 131.0, 1),
    }
    assert history.read == 4, "the page itself reads the months of its window"
    for _ in range(3):
        assert await months.earlier(is_whole=True) == earlier
    assert history.read == 8
