"""A place that is granted in the very moment in which its request ends is given back once."""

import asyncio
from itertools import product
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.gateway.app.held_request import HeldRequest
from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.core.waiting_queue import Ticket
from shared.messages.waker import MachineRecord
from tests.unit.gateway.front import NOON, Front
from tests.unit.gateway.wire import turns

CAP = 60.0
Event = Literal["grant", "refuse", "deadline", "cancel", "turn"]
EVENTS: tuple[Event, ...] = ("grant", "refuse", "deadline", "cancel", "turn")


class Hold:
    """One request that waits, and all that may happen to it."""

    def __init__(
        self, front: Front, *, deadline: float = NOON + CAP, is_capped: bool = True, first_comment: float = NOON + 10
    ) -> None:
        self.front = front
        self.comments: list[bytes] = []
        self.held = HeldRequest(
            front.scheduler,
            front.dispatcher,
            front.config.models["m"],
            is_capped=is_capped,
            next_comment=first_comment,
            heartbeat=10.0,
            comment=self.comment,
            now=front.now,
        )
        self.ticket = Ticket("m", "k", "r", deadline, self.held.on_granted, self.held.on_refused)
        self.task = asyncio.create_task(self.wait())

    def comment(self, text: bytes) -> None:
        self.front.may_break("comment")
        self.comments.append(text)

    async def wait(self) -> MachineRecord | ApiError:
        self.front.scheduler.enqueue(self.ticket)
        try:
            return await self.held.wait(self.ticket, CAP)
        except ApiError as error:
            return error
        finally:
            self.front.scheduler.remove(self.ticket)

    def happens(self, event: Event) -> None:
        front = self.front
        if event == "grant":
            front.fleet.put("s1", "ready")
            front.dispatcher.on_fleet_change("s1")
        elif event == "refuse":
            for ticket in front.scheduler.evict("m", 9):
                ticket.on_refuse(errors.leaving())
        elif event == "deadline":
            front.time = self.ticket.deadline
            self.held._on_time(self.ticket, CAP)
        elif event == "cancel":
            self.task.cancel()


def books(front: Front) -> tuple[int, int]:
    return front.scheduler.total_in_flight, front.scheduler.total_waiting


async def outcome(hold: Hold) -> MachineRecord | ApiError | None:
    """None: it was cancelled."""
    await turns()
    assert hold.task.done()
    return None if hold.task.cancelled() else hold.task.result()


async def play(events: list[tuple[Event, int]], waiting: int = 3) -> None:
    """Each event happens to one of those that wait, and those that got a place keep it to the end."""
    front = Front()
    holds = [Hold(front) for _ in range(waiting)]
    await turns(1)
    for event, which in events:
        if event == "turn":
            await turns(1)
        else:
            holds[which].happens(event)
    for hold in holds:
        hold.task.cancel()
    places = [result.machine for hold in holds if isinstance(result := await outcome(hold), MachineRecord)]
    assert books(front) == (len(places), 0)
    for machine in places:
        front.dispatcher.release(machine)
    assert books(front) == (0, 0)
    timers = [hold.held._timer for hold in holds]
    now = asyncio.get_running_loop().time()
    assert all(timer is None or timer.cancelled() or timer.when() <= now for timer in timers)


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 2)), max_size=12))
def test_no_place_is_lost_in_any_order_of_events(events: list[tuple[Event, int]]) -> None:
    asyncio.run(play(events))


async def test_each_pair_in_one_iteration_or_in_two() -> None:
    for first, second in product(EVENTS, repeat=2):
        await play([(first, 0), (second, 0)], 1)
        await play([(first, 0), ("turn", 0), (second, 0)], 1)


@pytest.mark.parametrize("first", ["grant", "cancel"])
async def test_a_grant_and_a_cancellation_in_one_iteration(first: Event) -> None:
    front = Front()
    hold = Hold(front)
    await turns(1)
    hold.happens(first)
    hold.happens("cancel" if first == "grant" else "grant")
    assert books(front) == (1, 0)
    assert await outcome(hold) is None
    assert books(front) == (0, 0)


async def test_a_released_place_is_granted_to_the_next_request() -> None:
    front = Front()
    holds = [Hold(front) for _ in range(4)]
    await turns(1)
    front.fleet.put("s1", "ready")
    front.dispatcher.on_fleet_change("s1")
    for hold in holds[:2]:
        hold.happens("cancel")
    results = [await outcome(hold) for hold in holds]
    assert [isinstance(result, MachineRecord) for result in results] == [False, False, True, True]
    assert books(front) == (2, 0)


@pytest.mark.parametrize(("is_capped", "code"), [(True, "wake_timeout"), (False, "waking")])
async def test_a_deadline_is_the_cap_s_or_the_caller_s_own(*, is_capped: bool, code: str) -> None:
    front = Front()
    hold = Hold(front, deadline=NOON, is_capped=is_capped)
    result = await outcome_of_timer(hold)
    assert isinstance(result, ApiError)
    assert (result.status, result.code) == ((504 if is_capped else 503), code)
    assert books(front) == (0, 0)


async def outcome_of_timer(hold: Hold) -> MachineRecord | ApiError | None:
    async with asyncio.timeout(60):
        await asyncio.wait([hold.task])
    return await outcome(hold)


async def test_a_stream_gets_a_comment_every_heartbeat() -> None:
    front = Front()
    hold = Hold(front)
    await turns(1)
    seen = []
    for seconds in (0, 9.9, 10, 15, 19.9, 20, 30.5, 40, 40.5, 59.9):
        front.time = NOON + seconds
        hold.held._on_time(hold.ticket, CAP)
        seen.append(len(hold.comments))
    assert seen == [0, 0, 1, 1, 1, 2, 3, 3, 4, 5]
    assert set(hold.comments) == {b": waking tier=spot phase=? eta=?\n\n"}
    hold.happens("deadline")
    result = await outcome(hold)
    assert isinstance(result, ApiError)
    assert (result.code, len(hold.comments)) == ("wake_timeout", 5)


async def test_the_timer_is_set_for_what_comes_first() -> None:
    front, loop = Front(), asyncio.get_running_loop()
    hold = Hold(front, first_comment=NOON + 1000)
    await turns(1)
    assert hold.held._timer is not None
    assert 0 <= loop.time() + CAP - hold.held._timer.when() < 30
    commented = Hold(front, first_comment=NOON + 5)
    await turns(1)
    assert commented.held._timer is not None
    assert commented.held._timer.when() < hold.held._timer.when() - 30
    for each in (hold, commented):
        each.happens("cancel")
        await outcome(each)


async def test_a_fault_in_a_comment_ends_the_wait_of_that_request() -> None:
    front = Front()
    hold, other = Hold(front), Hold(front)
    await turns(1)
    front.breaks, front.time = {"comment"}, NOON + 10
    with capture_logs() as logs:
        hold.held._on_time(hold.ticket, CAP)
    result = await outcome(hold)
    assert isinstance(result, ApiError)
    assert (result.code, [entry["event"] for entry in logs]) == ("internal_error", ["hold_failed"])
    assert books(front) == (0, 1)
    other.happens("cancel")
    await outcome(other)
    assert books(front) == (0, 0)
