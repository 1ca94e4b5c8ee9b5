"""The verdict on a machine's day: what is named explains no more than it may, and nothing else is let through."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.meter.core.engine_readings import EngineDay
from services.meter.core.fleet_event import FleetEvent, FleetEventKind
from services.meter.core.machine_audit import (
    FASTEST,
    PACE_MARGIN,
    PROBE_TOKENS,
    REQUEST_TOKENS,
    GenerationUsage,
    MachineDay,
    TokenComparison,
    audit_machine,
    compare_counts,
)

T = 1000.0


def read(engine: int, *, generation: int = 1, **fields: Any) -> EngineDay:
    known: dict[str, Any] = {
        "machine": "m",
        "generation": generation,
        "day": "2026-11-23",
        "since": T,
        "whole": True,
        "last_at": T + 100,
        "prompt_tokens": engine,
        "completion_tokens": 0,
        "requests": None,
        "readings": 3,
        "resets": 0,
        "running": 0,
        "rounding": 0,
    }
    return EngineDay(**{**known, **fields})


def work(tokens: int, **fields: Any) -> GenerationUsage:
    known: dict[str, Any] = {"requests": 1, "tokens": tokens, "read": tokens, "largest": tokens}
    return GenerationUsage(machine="m", generation=1, **{**known, **fields})


def machine(
    days: list[EngineDay], usage: list[GenerationUsage], events: list[FleetEvent] | None = None, **fields: Any
) -> MachineDay:
    return MachineDay(machine="m", days=days, usage=usage, events=events or [], **fields)


def fleet_event(kind: str, amount: int = 0, at: float = T + 10, **fields: Any) -> FleetEvent:
    return FleetEvent(machine="m", at=at, kind=FleetEventKind(kind), amount=amount, **fields)


def test_engine_less_probes_is_the_ledger() -> None:
    found = audit_machine(machine([read(103)], [work(100)], [fleet_event("probe", 3)]))
    assert (found.state, found.engine, found.probes, found.ledger, found.difference) == ("equal", 103, 3, 100, 0)


def test_a_probe_outside_the_readings_is_of_another_count() -> None:
    notes = [fleet_event("probe", 3), fleet_event("probe", 3, at=T), fleet_event("probe", 3, at=T + 101)]
    assert audit_machine(machine([read(103)], [work(100)], notes)).probes == 3


def test_an_engine_that_was_not_read_is_unknown_and_never_zero() -> None:
    found = audit_machine(machine([], [work(100, read=0, unread=100)], scrape_error="it hangs"))
    assert (found.state, found.engine, found.difference, found.ledger) == ("unknown", None, None, 100)
    assert "it hangs" in found.words


def test_one_token_that_nobody_can_explain_is_wrong_either_way() -> None:
    more = audit_machine(machine([read(101)], [work(100)]))
    assert (more.state, more.difference) == ("wrong", 1)
    assert "does a client bypass the gateway" in more.words
    less = audit_machine(machine([read(99)], [work(100)]))
    assert (less.state, less.difference) == ("wrong", -1)
    assert "does another engine answer" in less.words


def test_while_work_is_under_way_nothing_is_called_wrong() -> None:
    assert audit_machine(machine([read(101)], [work(100)], is_settled=False)).state == "open"
    assert audit_machine(machine([read(100)], [work(100)], is_settled=False)).state == "equal"


def test_what_ended_after_the_last_reading_is_told_and_not_compared() -> None:
    found = audit_machine(machine([read(100)], [work(150, read=100, unread=50)], [fleet_event("death")]))
    assert (found.state, found.difference) == ("explained", 0)
    assert [(c.name, c.tokens, c.exact) for c in found.causes] == [("unread", 50, True)]
    assert "died" in found.causes[0].words
    assert audit_machine(machine([read(151)], [work(150, read=100, unread=50)])).state == "wrong", (
        "it excuses no surplus"
    )


def test_each_cause_explains_up_to_its_bound_and_not_beyond() -> None:
    left = REQUEST_TOKENS
    prompts = {"choices": 2, "choice_prompts": 20}
    cases: list[tuple[str, int, dict[str, Any], list[FleetEvent], dict[str, Any]]] = [
        ("left", left, {"uncertain": 1, "left_unknown": 1}, [], {}),
        ("left", 60, {"uncertain": 1, "left_seconds": 2.0, "left_completion": 40, "pace": 25.0}, [], {}),
        ("left", int(FASTEST), {"uncertain": 1, "left_seconds": 1.0}, [], {}),
        ("left", 70, {"uncertain": 1, "left_bytes": 60, "left_limited_seconds": 1.0, "left_limit": 10}, [], {}),
        ("choices", 20, prompts, [], {"requests": 1}),
        ("choices", 30, {**prompts, "choice_seconds": 0.2, "pace": 25.0}, [], {}),
        ("edges", 30, {"straddling": 30}, [], {}),
        ("gateway_crash", 2 * left, {}, [fleet_event("crash", 2)], {}),
        ("lost_probes", PROBE_TOKENS, {}, [fleet_event("lost_probe")], {}),
        ("rounding", 10, {}, [], {"rounding": 10}),
    ]
    for name, bound, fields, notes, day in cases:
        for engine, state in ((100 + bound, "explained"), (101 + bound, "wrong")):
            found = audit_machine(machine([read(engine, **day)], [work(100, **fields)], notes))
            assert (found.state, [c.name for c in found.causes]) == (state, [name])
    not_counted = work(100, uncertain=1, left_prompt=60, left_completion=40)
    assert audit_machine(machine([read(0)], [not_counted])).state == "explained", (
        "of what was left some engines count nothing"
    )
    assert audit_machine(machine([read(39)], [work(100, uncertain=1, left_prompt=60)])).state == "wrong"
    for kind in ("crash", "lost_probe"):
        short = audit_machine(machine([read(99)], [work(100)], [fleet_event(kind, 1)]))
        assert short.state == "wrong", "neither makes an engine count less"
    resets = [fleet_event("reset", since=T, lost=40)]
    assert audit_machine(machine([read(60)], [work(100)], resets)).state == "explained"
    assert audit_machine(machine([read(59)], [work(100)], resets)).state == "wrong"
    assert audit_machine(machine([read(101)], [work(100)], resets)).state == "wrong", (
        "a restart makes an engine count no more"
    )


def test_an_unknown_prompt_is_as_large_as_the_largest_of_the_day() -> None:
    large = work(10_000, uncertain=1, left_unknown=1, largest_prompt=9_000)
    assert audit_machine(machine([read(19_000)], [large])).state == "explained"
    assert audit_machine(machine([read(19_001)], [large])).state == "wrong"


@given(
    refused=st.integers(0, 10_000),
    left=st.lists(st.tuples(st.integers(0, 5_000), st.floats(0.0, 600.0)), max_size=20),
    pace=st.floats(1.0, 200.0),
    bypassed=st.integers(1, 2**30),
)
def test_a_bypass_of_any_size_above_the_bound_is_wrong(
    refused: int, left: list[tuple[int, float]], pace: float, bypassed: int
) -> None:
    """What was refused adds requests and no room."""
    answered, seconds = sum(tokens for tokens, _ in left), sum(s for _, s in left)
    done = work(
        100 + answered,
        requests=refused + len(left),
        uncertain=len(left),
        left_seconds=seconds,
        left_completion=answered,
        pace=pace,
    )
    bound = max(0, int(min(FASTEST, PACE_MARGIN * pace) * seconds) - answered) if left else 0
    assert audit_machine(machine([read(100 + answered + bound)], [done])).state in ("equal", "explained")
    assert audit_machine(machine([read(100 + answered + bound + bypassed)], [done])).state == "wrong"


LIMITED = st.lists(
    st.tuples(st.integers(1, 128), st.integers(1, 2**33), st.integers(1, 2**20), st.floats(2.0, 600.0)), min_size=1
)


@given(LIMITED, st.floats(1.0, 2_000.0), st.integers(0, 2**20))
def test_what_was_left_opens_no_more_than_its_limits(
    asked: list[tuple[int, int, int, float]], pace: float, more: int
) -> None:
    """Of each request: choices, `max_tokens`, bytes of its body, seconds. A larger request opens no less."""

    def bound(limit: float, size: int, seconds: float) -> int:
        limits = {"left_limit": limit, "left_bytes": size, "left_limited_seconds": seconds}
        done = work(100, uncertain=len(asked), pace=pace, **limits)
        (cause,) = audit_machine(machine([read(100)], [done])).causes
        return cause.tokens

    limit, size = sum(n * most for n, most, *_ in asked), sum(n * body for n, _, body, _ in asked)
    seconds = sum(n * s for n, _, _, s in asked)
    opened = bound(limit, size, seconds)
    assert opened <= limit + size
    assert opened <= FASTEST * seconds + size
    assert opened <= min(bound(limit + more, size, seconds), bound(limit, size, seconds + more))
    assert bound(limit, size + more, seconds) == opened + more


def test_generations_are_added() -> None:
    days = [read(50, generation=1), read(53, generation=2, since=T + 200, last_at=T + 300)]
    found = audit_machine(machine(days, [work(50), work(50)], [fleet_event("probe", 3, at=T + 250)]))
    assert (found.state, found.engine, found.generations, found.readings) == ("equal", 103, 2, 6)


COUNT = st.integers(0, 2**40)


SIDES = st.builds(TokenComparison, engine=COUNT, ledger=COUNT, probes=COUNT, more=COUNT, less=COUNT, unread=COUNT)


@given(SIDES, st.integers(1, 2**20))
def test_more_room_never_makes_it_wrong_and_a_surplus_beyond_it_always_does(sides: TokenComparison, extra: int) -> None:
    engine, ledger, probes = sides.engine, sides.ledger, sides.probes
    more, less, unread = sides.more, sides.less, sides.unread
    found = compare_counts(sides)
    difference = engine - probes - ledger
    assert (found == "wrong") == (difference > more or -difference > less)
    assert found != "equal" or (difference == 0 and unread == 0)
    wider = TokenComparison(
        engine=engine, ledger=ledger, probes=probes, more=more + extra, less=less + extra, unread=unread
    )
    assert found == "wrong" or compare_counts(wider) == found
    direct = TokenComparison(engine=ledger + probes + more + extra, ledger=ledger, probes=probes, more=more, less=less)
    assert compare_counts(direct) == "wrong"


@given(
    st.lists(
        st.builds(work, COUNT, read=COUNT, unread=COUNT, straddling=COUNT, uncertain=st.integers(0, 9)), max_size=4
    ),
    st.lists(st.builds(read, COUNT, rounding=st.integers(0, 99)), min_size=1, max_size=4),
    st.lists(
        st.builds(fleet_event, st.sampled_from(["probe", "lost_probe", "death", "crash", "reset"]), COUNT, lost=COUNT),
        max_size=5,
    ),
)
def test_every_cause_is_of_one_side_or_exact(
    done: list[GenerationUsage], days: list[EngineDay], notes: list[FleetEvent]
) -> None:
    found = audit_machine(machine(days, done, notes))
    assert found.engine is not None
    assert found.difference == found.engine - found.probes - found.read
    for cause in found.causes:
        assert cause.exact == (cause.name in ("probes", "unread"))
        assert cause.tokens >= 0
    assert found.words
