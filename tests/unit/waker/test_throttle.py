"""How often an account is called, against a clock that the test moves."""

import asyncio

import pytest

from shared.clouds.throttle import LONGEST_PAUSE, PATIENCE, Crowded, Throttle
from tests.kit.waiting import PATIENCE_SECONDS


class Hours:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Gate:
    """Sleepers that wake one by one, the clock moved to their hour."""

    def __init__(self, hours: Hours) -> None:
        self._hours = hours
        self._asleep: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._asleep.put_nowait((self._hours.now + seconds, woken))
        await woken.wait()

    async def asleep(self) -> tuple[float, asyncio.Event]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._asleep.get()

    async def wake(self) -> None:
        """The one that fell asleep first."""
        self._hours.now, woken = await self.asleep()
        woken.set()


def throttle_of(hours: Hours, calls: int = 100, *, jitter: float = 0.0, patience: float = PATIENCE) -> Throttle:
    return Throttle(calls, patience=patience, clock=hours, sleep=hours.sleep, jitter=lambda: jitter)


async def pause_after(throttle: Throttle, hours: Hours) -> float:
    """Seconds of the pause that a throttling answer to the next call brings."""
    turn = await throttle.turn()
    throttle.answered(turn, throttled=True)
    before = hours.now
    next_turn = await throttle.turn()
    return next_turn - before


async def test_calls_within_the_bound_do_not_wait() -> None:
    hours = Hours()
    throttle = throttle_of(hours, 3)
    assert [await throttle.turn() for _ in range(3)] == [1000.0] * 3
    assert not hours.slept


async def test_no_minute_has_more_calls_than_allowed() -> None:
    hours = Hours()
    throttle = throttle_of(hours, 3, patience=120)
    made = []
    for _ in range(10):
        made.append(await throttle.turn())
        hours.now += 5
    assert all(later - earlier >= 60 for earlier, later in zip(made, made[3:], strict=False))
    assert made[-1] == 1000.0 + 3 * 60


async def test_a_call_without_a_turn_in_time_is_not_made_and_takes_none() -> None:
    hours = Hours()
    throttle = throttle_of(hours, 1)
    await throttle.turn()
    with pytest.raises(Crowded, match="in 60 s"):
        await throttle.turn()
    hours.now += 60
    assert await throttle.turn() == 1060.0
    assert not hours.slept


async def test_waiting_calls_are_made_in_their_order() -> None:
    throttle = Throttle(1, patience=1000, clock=(hours := Hours()), sleep=(gate := Gate(hours)).sleep)
    await throttle.turn()
    order: list[int] = []

    async def call(number: int) -> None:
        await throttle.turn()
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(call(number))
        for _ in range(3):
            await gate.wake()
    assert order == [0, 1, 2]


async def test_pauses_double_up_to_a_minute_and_a_success_ends_them() -> None:
    hours = Hours()
    throttle = throttle_of(hours, patience=100)
    pauses = [await pause_after(throttle, hours) for _ in range(8)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    throttle.answered(await throttle.turn(), throttled=False)
    assert await pause_after(throttle, hours) == 1


async def test_jitter_makes_a_pause_longer_but_never_longer_than_the_longest() -> None:
    hours = Hours()
    throttle = throttle_of(hours, patience=100, jitter=1.0)
    pauses = [await pause_after(throttle, hours) for _ in range(8)]
    assert pauses[:3] == [1.5, 3, 6]
    assert pauses[-1] == LONGEST_PAUSE


async def test_answers_to_calls_made_before_a_pause_neither_lengthen_nor_end_it() -> None:
    hours = Hours()
    throttle = throttle_of(hours)
    first, second, third = [await throttle.turn() for _ in range(3)]
    throttle.answered(first, throttled=True)
    throttle.answered(second, throttled=True)
    throttle.answered(third, throttled=False)
    assert await throttle.turn() == 1001.0
    assert await pause_after(throttle, hours) == 2


async def test_a_pause_longer_than_the_patience_lets_no_call_through() -> None:
    hours = Hours()
    throttle = throttle_of(hours, patience=3)
    for _ in range(2):
        await pause_after(throttle, hours)
    throttle.answered(await throttle.turn(), throttled=True)
    with pytest.raises(Crowded, match="in 4 s"):
        await throttle.turn()


async def test_a_pause_that_begins_while_a_call_waits_holds_it() -> None:
    hours = Hours()
    throttle = Throttle(1, patience=1000, clock=hours, sleep=(gate := Gate(hours)).sleep, jitter=lambda: 0.0)
    first = await throttle.turn()
    waiting = asyncio.create_task(throttle.turn())
    at, woken = await gate.asleep()
    hours.now = 1059.5
    throttle.answered(first, throttled=True)
    hours.now = at  # its minute is over, the pause is not
    woken.set()
    await gate.wake()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await waiting == 1060.5


async def test_what_a_library_repeats_by_itself_counts_too() -> None:
    hours = Hours()
    throttle = throttle_of(hours, 3)
    throttle.answered(await throttle.turn(), throttled=False, repeats=2)
    with pytest.raises(Crowded, match="in 60 s"):
        await throttle.turn()
