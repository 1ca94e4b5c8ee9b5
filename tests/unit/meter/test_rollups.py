"""Rollups by minute and by a key's month."""

from datetime import UTC, datetime

import pytest

from services.meter.core.rollups import MinuteKey, MonthKey, key_month_tokens, minute_rollups, minute_totals
from shared.messages.meter import month_of
from shared.units import MINUTE_S
from tests.unit.meter.events import event, sums_of

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("at", "month"),
    [
        (0.0, "1970-01"),
        (DECEMBER - 1.0, "2026-11"),
        (DECEMBER - 1e-6, "2026-11"),
        (DECEMBER - 2**-22, "2026-11"),  # the next lower one: it is not rounded up
        (DECEMBER, "2026-12"),
        (2.0**33 - 1, "2242-03"),
    ],
)
def test_month_is_a_calendar_month_in_utc(at: float, month: str) -> None:
    assert month_of(at) == month
    (rollup,) = minute_rollups([event(completed_at=at)])
    assert month_of(rollup.minute * MINUTE_S) == month, "the rollups of a month are those of its events"


def test_month_tokens_exclude_failed_and_repeated_events() -> None:
    events = [
        event(source_seq=1, completed_at=DECEMBER, key_id="b"),
        event(source_seq=2, completed_at=DECEMBER - 1, key_id="b", cached_tokens=10, reasoning_tokens=7),
        event(source_seq=3, completed_at=DECEMBER - 2, key_id="b", outcome="engine_lost"),
        event(source_seq=4, completed_at=DECEMBER - 3, key_id="b", outcome="failed"),
        event(source_seq=5, completed_at=DECEMBER - 3, key_id="a", outcome="client_closed"),
        event(source_seq=6, completed_at=DECEMBER - 3, key_id="c", outcome="failed"),
    ]
    months = key_month_tokens(events, counted={e.id for e in events} - {"gw-1/5"})
    assert list(months.items()) == [
        (MonthKey("2026-11", "a"), 0),
        (MonthKey("2026-11", "b"), 34),
        (MonthKey("2026-12", "b"), 17),
    ]


def test_minute_totals_sum_over_machines_and_keys() -> None:
    events = [
        event(source_seq=n, completed_at=at, machine=machine, key_id=key, outcome=outcome, tier=tier)
        for n, (at, machine, key, outcome, tier) in enumerate(
            [
                (DECEMBER, "a", "k1", "completed", "l4x2"),
                (DECEMBER + 59.9, "b", "k2", "completed", "l4x2"),
                (DECEMBER + 60.0, "a", "k1", "completed", "l4x2"),
                (DECEMBER, "a", "k1", "failed", "l4x2"),
                (DECEMBER, "a", "k1", "completed", "h100x2"),
            ],
            1,
        )
    ]
    first = int(DECEMBER / 60)
    minutes = minute_totals(minute_rollups(events))
    assert minutes == {
        MinuteKey(first, "qwen", "l4x2", "completed"): sums_of(events[:2]),
        MinuteKey(first + 1, "qwen", "l4x2", "completed"): sums_of(events[2:3]),
        MinuteKey(first, "qwen", "l4x2", "failed"): sums_of(events[3:4]),
        MinuteKey(first, "qwen", "h100x2", "completed"): sums_of(events[4:]),
    }
    assert list(minutes) == sorted(minutes)
