"""The audit of a machine's day: each cause explains up to its bound, and nothing else is accepted."""

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


def test_audit_is_equal_when_engine_minus_probes_is_the_ledger() -> None:
    result = audit_machine(machine([read(103)], [work(100)], [fleet_event("probe", 3)]))
    assert (result.state, result.engine, result.probes, result.ledger, result.difference) == ("equal", 103, 3, 100, 0)


def test_probe_outside_the_readings_is_ignored() -> None:
    notes = [fleet_event("probe", 3), fleet_event("probe", 3, at=T), fleet_event("probe", 3, at=T + 101)]
    assert audit_machine(machine([read(103)], [work(100)], notes)).probes == 3


def test_engine_without_readings_is_unknown_not_zero() -> None:
    result = audit_machine(machine([], [work(100, read=0, unread=100)], scrape_error="it hangs"))
    assert (result.state, result.engine, result.difference, result.ledger) == ("unknown", None, None, 100)
    assert "it hangs" in result.words


def test_one_unexplained_token_is_wrong_in_either_direction() -> None:
    more = audit_machine(machine([read(101)], [work(100)]))
    assert (more.state, more.difference) == ("wrong", 1)
    assert "does a client bypass the gateway" in more.words
    less = audit_machine(machine([read(99)], [work(100)]))
    assert (less.state, less.difference) == ("wrong", -1)
    assert "does another engine answer" in less.words


def test_difference_is_open_while_requests_are_in_flight() -> None:
    assert audit_machine(machine([read(101)], [work(100)], is_settled=False)).state == "open"
    assert audit_machine(machine([read(100)], [work(100)], is_settled=False)).state == "equal"


def test_requests_after_the_last_reading_are_listed_but_not_compared() -> None:
    result = audit_machine(machine([read(100)], [work(150, read=100, unread=50)], [fleet_event("death")]))
    assert (result.state, result.difference) == ("explained", 0)
    assert [(c.name, c.tokens, c.exact) for c in result.causes] == [("unread", 50, True)]
    assert "died" in result.causes[0].words
    assert audit_machine(machine([read(151)], [work(150, read=100, unread=50)])).state == "wrong", (
        "it excuses no surplus"
    )


def test_each_cause_explains_differences_up_to_its_bound() -> None:
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
            result = audit_machine(machine([read(engine, **day)], [work(100, **fields)], notes))
            assert (result.state, [c.name for c in result.causes]) == (state, [name])
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


def test_unknown_prompt_is_bounded_by_the_largest_of_the_day() -> None:
    large = work(10_000, uncertain=1, left_unknown=1, largest_prompt=9_000)
    assert audit_machine(machine([read(19_000)], [large])).state == "explained"
    assert audit_machine(machine([read(19_001)], [large])).state == "wrong"


@given(
    refused=st.integers(0, 10_000),
    left=st.lists(st.tuples(st.integers(0, 5_000), st.floats(0.0, 600.0)), max_size=20),
    pace=st.floats(1.0, 200.0),
    bypassed=st.integers(1, 2**30),
)
def test_bypass_above_the_bound_is_wrong_whatever_its_size(
    refused: int, left: list[tuple[int, float]], pace: float, bypassed: int
) -> None:
    """Refused requests add to the count but explain nothing."""
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
def test_abandoned_requests_explain_no_more_than_their_limits(
    requests: list[tuple[int, int, int, float]], pace: float, more: int
) -> None:
    """Each request: choices, `max_tokens`, bytes of its body, seconds. A larger request explains no less."""

    def bound(limit: float, size: int, seconds: float) -> int:
        limits = {"left_limit": limit, "left_bytes": size, "left_limited_seconds": seconds}
        done = work(100, uncertain=len(requests), pace=pace, **limits)
        (cause,) = audit_machine(machine([read(100)], [done])).causes
        return cause.tokens

    limit, size = sum(n * most for n, most, *_ in requests), sum(n * body for n, _, body, _ in requests)
    seconds = sum(n * s for n, _, _, s in requests)
    opened = bound(limit, size, seconds)
    assert opened <= limit + size
    assert opened <= FASTEST * seconds + size
    assert opened <= min(bound(limit + more, size, seconds), bound(limit, size, seconds + more))
    assert bound(limit, size + more, seconds) == opened + more


def test_generations_are_summed() -> None:
    days = [read(50, generation=1), read(53, generation=2, since=T + 200, last_at=T + 300)]
    result = audit_machine(machine(days, [work(50), work(50)], [fleet_event("probe", 3, at=T + 250)]))
    assert (result.state, result.engine, result.generations, result.readings) == ("equal", 103, 2, 6)


COUNT = st.integers(0, 2**40)


SIDES = st.builds(TokenComparison, engine=COUNT, ledger=COUNT, probes=COUNT, more=COUNT, less=COUNT, unread=COUNT)


@given(SIDES, st.integers(1, 2**20))
def test_wider_bounds_never_make_it_wrong_and_exceeding_them_always_does(sides: TokenComparison, extra: int) -> None:
    engine, ledger, probes = sides.engine, sides.ledger, sides.probes
    more, less, unread = sides.more, sides.less, sides.unread
    result = compare_counts(sides)
    difference = engine - probes - ledger
    assert (result == "wrong") == (difference > more or -difference > less)
    assert result != "equal" or (difference == 0 and unread == 0)
    wider = TokenComparison(
        engine=engine, ledger=ledger, probes=probes, more=more + extra, less=less + extra, unread=unread
    )
    assert result == "wrong" or compare_counts(wider) == result
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
def test_only_probes_and_unread_are_exact_causes(
    done: list[GenerationUsage], days: list[EngineDay], notes: list[FleetEvent]
) -> None:
    result = audit_machine(machine(days, done, notes))
    assert result.engine is not None
    assert result.difference == result.engine - result.probes - result.read
    for cause in result.causes:
        assert cause.exact == (cause.name in ("probes", "unread"))
        assert cause.tokens >= 0
    assert result.words
