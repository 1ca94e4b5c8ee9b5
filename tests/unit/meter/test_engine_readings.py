"""Increases between readings: nothing is counted twice whatever restarts, and days sum to the whole."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meter.core.day import day_of, parse_day
from services.meter.core.engine_counters import EngineCounters
from services.meter.core.engine_readings import CounterIncrease, EngineDay, EngineReading, add_reading, counter_increase
from tests.unit.meter.events import MIDNIGHT

DAY = parse_day("2026-11-23")


def reading(at: float, prompt: int, completion: int = 0, generation: int = 1, rounding: int = 0) -> EngineReading:
    counters = EngineCounters(
        prompt_tokens=prompt, completion_tokens=completion, running=0, rounding=rounding, requests=prompt
    )
    return EngineReading(machine="m", generation=generation, at=MIDNIGHT + at, counters=counters)


def increase(
    last: EngineReading | None, new: EngineReading, *, started: float | None = None, is_unmanaged: bool = False
) -> CounterIncrease | None:
    return counter_increase(
        last,
        new,
        day=day_of(new.at),
        started_at=None if started is None else MIDNIGHT + started,
        is_unmanaged=is_unmanaged,
    )


def test_day_of_a_moment_is_in_utc() -> None:
    assert day_of(MIDNIGHT - 0.001).name == "2026-11-22"
    assert day_of(MIDNIGHT) == DAY


def test_engine_without_known_start_is_counted_from_the_first_reading() -> None:
    first = increase(None, reading(100, 5000))
    assert first == CounterIncrease(since=MIDNIGHT + 100, whole=False, prompt_tokens=0, completion_tokens=0, requests=0)
    assert increase(None, reading(100, 5000), started=-50) == first, "started on another day"


def test_engine_started_today_is_counted_from_its_start() -> None:
    first = increase(None, reading(100, 50, 5), started=40)
    assert first == CounterIncrease(since=MIDNIGHT + 40, whole=True, prompt_tokens=50, completion_tokens=5, requests=50)


def test_increase_is_the_difference_between_two_readings() -> None:
    more = increase(reading(100, 50, 5), reading(115, 70, 6))
    assert more == CounterIncrease(
        since=MIDNIGHT + 100, whole=False, prompt_tokens=20, completion_tokens=1, requests=20
    )


def test_counter_that_fell_is_a_reset() -> None:
    more = increase(reading(100, 50, 5), reading(115, 7, 9))
    assert more is not None
    assert (more.prompt_tokens, more.completion_tokens, more.reset, more.since) == (7, 9, True, MIDNIGHT + 100)


def test_fall_within_rounding_is_no_reset() -> None:
    more = increase(reading(100, 1_234_560, 5, rounding=5), reading(115, 1_234_555, 5, rounding=5))
    assert more is not None
    assert not more.reset


def test_rounding_of_a_day_is_that_of_both_its_ends() -> None:
    first, second = reading(100, 1_000_000, rounding=5), reading(200, 2_000_000, rounding=50)
    more = increase(first, second)
    assert more is not None
    day = add_reading(None, second, more, DAY)
    assert (day.rounding, day.prompt_tokens, day.readings, day.last_at) == (100, 1_000_000, 1, second.at)


def test_new_generation_is_a_new_process_even_when_its_counter_is_higher() -> None:
    more = increase(reading(100, 50), reading(200, 80, generation=2), started=150)
    assert more is not None
    assert (more.prompt_tokens, more.whole, more.since, more.reset) == (80, True, MIDNIGHT + 150, False)
    earlier = increase(reading(100, 50), reading(200, 80, generation=2), started=20)
    assert earlier is not None
    assert earlier.since == MIDNIGHT + 100, "that start was the one before"


def test_unmanaged_engine_continues_over_generations() -> None:
    more = increase(reading(100, 50), reading(200, 80, generation=2), is_unmanaged=True)
    assert more is not None
    assert (more.prompt_tokens, more.whole) == (30, False)


@pytest.mark.parametrize("at", [99.0, 100.0])
def test_increase_is_none_when_the_reading_is_not_newer(at: float) -> None:
    assert increase(reading(100, 50), reading(at, 60)) is None


@dataclass
class Life:
    """An engine that works, is read and dies, with the record of its days."""

    clock: float = 0.0
    generation: int = 1
    prompt: int = 0
    unread: int = 0
    lost: int = 0
    done: int = 0
    last: EngineReading | None = None
    days: dict[tuple[str, int], EngineDay] = field(default_factory=dict)

    def work(self, tokens: int) -> None:
        self.prompt += tokens
        self.unread += tokens
        self.done += tokens

    def read(self) -> None:
        new = reading(self.clock, self.prompt, generation=self.generation)
        day = day_of(new.at)
        more = counter_increase(self.last, new, day=day, started_at=MIDNIGHT, is_unmanaged=False)
        assert more is not None
        key = (day.name, self.generation)
        self.days[key] = add_reading(self.days.get(key), new, more, day)
        self.last, self.unread = new, 0

    def die(self) -> None:
        self.lost, self.unread = self.lost + self.unread, 0
        self.prompt, self.generation = 0, self.generation + 1


@given(st.lists(st.one_of(st.integers(1, 1000), st.sampled_from(["read", "die", "wait"])), max_size=60))
def test_days_sum_to_everything_that_was_read(steps: list[int | str]) -> None:
    life = Life()
    for step in steps:
        life.clock += 1.0
        if isinstance(step, int):
            life.work(step)
        elif step == "read":
            life.read()
        elif step == "die":
            life.die()
        else:
            life.clock += 20_000.0
    counted = sum(d.prompt_tokens for d in life.days.values())
    # The first reading of all, on a later day than the start, is where the counting begins.
    before = life.done - life.lost - life.unread - counted
    assert before >= 0
    if life.days and min(life.days)[0] == DAY.name:
        assert before == 0
    assert all(d.since < d.last_at or d.prompt_tokens == 0 for d in life.days.values())
