"""Weekly windows against an oracle that walks the wall clock minute by minute, and their refusals."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config.load import parse
from shared.errors import Misconfigured
from shared.weekly_window import DAYS, parse_window, window_fault


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_office_hours_are_on_weekdays_and_end_exclusive() -> None:
    window = parse_window("mon-fri 09:00-18:00")
    assert not window.covers(at("2026-11-23T08:59:59Z"))
    assert window.covers(at("2026-11-23T09:00:00Z"))
    assert window.covers(at("2026-11-27T17:59:59.9Z"))
    assert not window.covers(at("2026-11-27T18:00:00Z"))
    assert not window.covers(at("2026-11-28T12:00:00Z"))


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_began() -> None:
    window = parse_window("fri 22:00-02:00")
    assert window.covers(at("2026-11-27T22:00:00Z"))
    assert window.covers(at("2026-11-28T01:59:00Z"))
    assert not window.covers(at("2026-11-28T22:00:00Z"))
    assert not window.covers(at("2026-11-27T01:00:00Z"))


def test_days_may_be_listed_and_run_over_the_end_of_the_week() -> None:
    assert parse_window("sat,sun 10:00-12:00").days == {5, 6}
    assert parse_window("fri-mon 10:00-12:00").days == {4, 5, 6, 0}
    assert parse_window("mon,wed-fri 10:00-12:00").days == {0, 2, 3, 4}
    assert parse_window("daily 00:00-24:00").days == set(range(7))


def test_a_window_goes_by_the_clock_of_its_zone_when_clocks_change() -> None:
    window = parse_window("daily 09:00-10:00 Europe/Berlin")
    # Winter time ends on 2026-03-29, summer time on 2026-10-25.
    assert window.covers(at("2026-03-28T08:30:00Z"))
    assert not window.covers(at("2026-03-29T08:30:00Z"))
    assert window.covers(at("2026-03-29T07:30:00Z"))
    assert window.covers(at("2026-10-24T07:30:00Z"))
    assert window.covers(at("2026-10-25T08:30:00Z"))


def test_skipped_minutes_are_missing_and_repeated_ones_count_twice() -> None:
    window = parse_window("daily 02:00-03:00 Europe/Berlin")
    day = [at("2026-03-29T00:00:00+01:00") + 60 * n for n in range(23 * 60)]
    assert sum(map(window.covers, day)) == 0
    day = [at("2026-10-25T00:00:00+02:00") + 60 * n for n in range(25 * 60)]
    assert sum(map(window.covers, day)) == 120


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("09:00-18:00", "expected days, times"),
        ("mon 09:00-18:00 UTC extra", "expected days, times"),
        ("", "expected days, times"),
        ("Mon 09:00-18:00", "'Mon'"),
        ("mon-tue-wed 09:00-18:00", "'mon-tue-wed'"),
        ("mon,, 09:00-18:00", "''"),
        ("mon 9:00-18:00", "HH:MM-HH:MM"),
        ("mon 09:00-18:60", "00:00 to 24:00"),
        ("mon 24:00-02:00", "00:00 to 24:00"),
        ("mon 22:00-24:01", "00:00 to 24:00"),
        ("mon 09:00-09:00", "00:00-24:00"),
        ("mon 09:00-10:00 Mars/Base", "Mars/Base"),
        ("mon 09:00-10:00 ../etc", "../etc"),
        ("mon 09:00-10:00 Europe", "Europe"),
    ],
)
def test_malformed_window_is_rejected_with_its_words(text: str, problem: str) -> None:
    fault = window_fault(text)
    assert fault is not None
    assert problem in fault


def test_a_good_window_has_no_fault() -> None:
    assert window_fault("daily 22:00-24:00 America/New_York") is None


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")


@given(
    days=st.sets(st.integers(0, 6), min_size=1),
    first=st.integers(0, 1439),
    length=st.integers(1, 1439),
    zone=st.sampled_from(ZONES),
    days_later=st.integers(0, 729),
    minute=st.integers(0, 1439),
)
def test_window_agrees_with_walking_its_minutes(
    *, days: set[int], first: int, length: int, zone: str, days_later: int, minute: int
) -> None:
    """The oracle lists the wall-clock minutes of every window that begins in the days around."""
    end = first + length
    names = ",".join(DAYS[day] for day in sorted(days))
    until = end % 1440 or 1440
    text = f"{names} {first // 60:02}:{first % 60:02}-{until // 60:02}:{until % 60:02} {zone}"
    window = parse_window(text)
    day = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days_later)
    expected = set[datetime]()
    for offset in range(-3, 4):
        midnight = day.replace(tzinfo=None) + timedelta(days=offset)
        if midnight.weekday() in days:
            expected |= {midnight + timedelta(minutes=n) for n in range(first, end)}
    for step in range(0, 1440, 7):
        moment = day + timedelta(minutes=minute + step)
        shown = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None, second=0, microsecond=0, fold=0)
        assert window.covers(moment.timestamp()) == (shown in expected), (text, moment)


def test_a_configuration_names_the_window_that_cannot_be_read() -> None:
    text = '[waker]\nkeep_warm = ["daily 08:00-09:00", "mo 09:00-18:00"]\n'
    text += '[[tier]]\nname = "lab"\nprovider = "static"\nkeep_warm = ["mon 9-10"]\n'
    with pytest.raises(Misconfigured) as refusal:
        parse(text, "f.toml")
    lines = str(refusal.value).splitlines()
    assert [line.split(": '")[0] for line in lines] == [
        'f.toml: tier "lab": keep_warm[1]',
        "f.toml: waker.keep_warm[2]",
    ]
