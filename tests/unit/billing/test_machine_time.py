"""A machine's life from the journal, and how a window of it divides."""

from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.allocation.machine_time import (
    TIME_CAUSES,
    MachineTime,
    StateChange,
    build_intervals,
    order_changes,
    subtract_windows,
)
from services.billing.core.utc_time import Window
from shared.messages.waker import MachineState

STATES: list[MachineState] = ["asleep", "waking", "ready", "draining", "falling_asleep", "broken", "gone"]
WINDOWS = st.tuples(st.integers(0, 100), st.integers(0, 100)).map(lambda pair: Window(min(pair), max(pair)))


def test_a_cycle() -> None:
    changes = [
        StateChange(10, "waking"),
        StateChange(20, "ready"),
        StateChange(60, "draining"),
        StateChange(62, "falling_asleep"),
    ]
    time = MachineTime(build_intervals([*changes, StateChange(70, "asleep")], 100), [Window(15, 30), Window(50, 61)])
    use = time.use(Window(0, 100))
    assert use.by_cause == {"waking": 10, "serving": 21, "warm_idle": 29, "asleep": 30, "failed_wake": 0}
    assert use.uncovered == 10
    assert use.billable == 60


def test_a_wake_that_ends_anywhere_but_ready_has_failed() -> None:
    for end in ("asleep", "broken", "falling_asleep", "gone"):
        use = MachineTime(build_intervals([StateChange(0, "waking"), StateChange(5, end)], 9)).use(Window(0, 5))
        assert use.by_cause["failed_wake"] == 5


def test_broken_machine_is_billed_until_its_provider_reports_it_off() -> None:
    changes = [StateChange(0, "ready"), StateChange(5, "broken"), StateChange(8, "asleep")]
    use = MachineTime(build_intervals(changes, 9), [Window(0, 9)]).use(Window(0, 9))
    assert (use.by_cause["serving"], use.by_cause["warm_idle"], use.by_cause["asleep"]) == (5, 3, 1)
    assert use.billable == 8


def test_a_wake_under_way_has_not_failed_yet_and_the_present_lasts_until_now() -> None:
    use = MachineTime(build_intervals([StateChange(0, "waking")], 7)).use(Window(0, 10))
    assert (use.by_cause["waking"], use.uncovered) == (7, 3)


def test_a_clock_that_was_set_back_does_not_put_a_running_machine_to_sleep() -> None:
    journal_order = [
        StateChange(90, "ready", before="waking"),
        StateChange(99, "falling_asleep", before="ready"),
        StateChange(100, "asleep", before="falling_asleep"),
        StateChange(95, "waking", before="asleep"),
        StateChange(96, "ready", before="waking"),
    ]
    assert [(change.at, change.state) for change in order_changes(journal_order)] == [
        (90, "ready"), (95, "falling_asleep"), (95, "asleep"), (95, "waking"), (96, "ready")
    ]  # fmt: skip
    late = [journal_order[2], journal_order[0], journal_order[1]]
    assert order_changes(late) == journal_order[:3]


@given(
    st.lists(st.tuples(st.integers(0, 100), st.sampled_from(STATES)), max_size=12),
    st.lists(WINDOWS, max_size=4),
    WINDOWS,
    st.integers(0, 120),
)
def test_every_millisecond_has_one_cause(
    changes: list[tuple[int, MachineState]], busy: list[Window], window: Window, now: int
) -> None:
    ordered = [StateChange(at, state) for at, state in sorted(changes, key=lambda c: c[0])]
    merged = subtract_windows(Window(0, 100), subtract_windows(Window(0, 100), busy))
    use = MachineTime(build_intervals(ordered, now), merged).use(window)
    assert set(use.by_cause) == set(TIME_CAUSES)
    assert min(*use.by_cause.values(), use.uncovered) >= 0
    assert sum(use.by_cause.values()) + use.uncovered == window.length


@given(WINDOWS, st.lists(WINDOWS, max_size=6))
def test_without_is_what_is_in_none_of_the_holes(window: Window, holes: list[Window]) -> None:
    left = subtract_windows(window, holes)
    moments = {m for part in left for m in range(part.start, part.end)}
    expected = {m for m in range(window.start, window.end) if not any(hole.start <= m < hole.end for hole in holes)}
    assert moments == expected
    assert sum(part.length for part in left) == len(expected)
