"""How often an account is called, against a clock that the test moves."""

import asyncio

import pytest

from shared.clouds.throttle import LONGEST_PAUSE_S, PATIENCE_S, Throttle, TooManyCalls
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


def throttle_of(hours: Hours, calls: int = 100, *, jitter: float = 0.0, patience_s: float = PATIENCE_S) -> Throttle:
    return Throttle(calls, patience_s=patience_s, clock=hours, sleep=hours.sleep, jitter=lambda: jitter)


async def pause_after(throttle: Throttle, hours: Hours) -> float:
    """Seconds of the pause that a throttling answer to the next call brings."""
    turn = await throttle.acquire()
    throttle.record_response(turn, throttled=True)
    before = hours.now
    next_turn = await throttle.acquire()
    return next_turn - before


async def test_calls_within_the_bound_do_not_wait() -> None:
    hours = Hours()
    throttle = throttle_of(hours, 3)
    assert [await throttle.acquire() for _ in range(3)] == [1000.0] * 3
    assert not hours.slept


async def test_no_minute_has_more_calls_than_allowed() -> None:
    hours = Hours()
    throttle = throttle_of(hours, 3, patience_s=120)
    made = []
    for _ in range(10):
        made.append(await throttle.acquire())
        hours.now += 5
    assert all(later - earlier >= 60 for earlier, later in zip(made, made[3:], strict=False))
    assert made[-1] == 1000.0 + 3 * 60


async def test_call_without_a_slot_in_time_is_not_made_and_uses_none() -> None:
    hours = Hours()
    throttle = throttle_of(hours, 1)
    await throttle.acquire()
    with pytest.raises(TooManyCalls, match="in 60 s"):
        await throttle.acquire()
    hours.now += 60
    assert await throttle.acquire() == 1060.0
    assert not hours.slept


async def test_waiting_calls_are_made_in_their_order() -> None:
    throttle = Throttle(1, patience_s=1000, clock=(hours := Hours()), sleep=(gate := Gate(hours)).sleep)
    await throttle.acquire()
    order: list[int] = []

    async def call(number: int) -> None:
        await throttle.acquire()
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(call(number))
        for _ in range(3):
            await gate.wake()
    assert order == [0, 1, 2]


async def test_pauses_double_up_to_a_minute_and_a_success_ends_them() -> None:
    hours = Hours()
    throttle = throttle_of(hours, patience_s=100)
    pauses = [await pause_after(throttle, hours) for _ in range(8)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    throttle.record_response(await throttle.acquire(), throttled=False)
    assert await pause_after(throttle, hours) == 1


async def test_jitter_makes_a_pause_longer_but_never_longer_than_the_longest() -> None:
    hours = Hours()
    throttle = throttle_of(hours, patience_s=100, jitter=1.0)
    pauses = [await pause_after(throttle, hours) for _ in range(8)]
    assert pauses[:3] == [1.5, 3, 6]
    assert pauses[-1] == LONGEST_PAUSE_S


async def test_answers_to_calls_made_before_a_pause_neither_lengthen_nor_end_it() -> None:
    hours = Hours()
    throttle = throttle_of(hours)
    first, second, third = [await throttle.acquire() for _ in range(3)]
    throttle.record_response(first, throttled=True)
    throttle.record_response(second, throttled=True)
    throttle.record_response(third, throttled=False)
    assert await throttle.acquire() == 1001.0
    assert await pause_after(throttle, hours) == 2


async def test_a_pause_longer_than_the_patience_lets_no_call_through() -> None:
    hours = Hours()
    throttle = throttle_of(hours, patience_s=3)
    for _ in range(2):
        await pause_after(throttle, hours)
    throttle.record_response(await throttle.acquire(), throttled=True)
    with pytest.raises(TooManyCalls, match="in 4 s"):
        await throttle.acquire()


async def test_a_pause_that_begins_while_a_call_waits_holds_it() -> None:
    hours = Hours()
    throttle = Throttle(1, patience_s=1000, clock=hours, sleep=(gate := Gate(hours)).sleep, jitter=lambda: 0.0)
    first = await throttle.acquire()
    waiting = asyncio.create_task(throttle.acquire())
    at, woken = await gate.asleep()
    hours.now = 1059.5
    throttle.record_response(first, throttled=True)
    hours.now = at  # its minute is over, the pause is not
    woken.set()
    await gate.wake()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await waiting == 1060.5


async def test_what_a_library_repeats_by_itself_counts_too() -> None:
    hours = Hours()
    throttle = throttle_of(hours, 3)
    throttle.record_response(await throttle.acquire(), throttled=False, repeats=2)
    with pytest.raises(TooManyCalls, match="in 60 s"):
        await throttle.acquire()
