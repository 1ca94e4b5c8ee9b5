"""From a checked request to a place: gates, limits, the wait, and what a caller may say of it."""

import asyncio
from contextlib import suppress
from decimal import Decimal
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.app.admission import UNSETTLED_RETRIES, UNSETTLED_SECONDS, parse_wake_timeout
from services.gateway.core.errors import ApiError
from services.gateway.core.rate_limits import LimitExceeded, Reservation, Unsettled
from services.gateway.core.wake_limits import WakeLimits
from shared.messages.keys import KeyRecord
from shared.messages.waker import KeyWakes, MachineRecord
from tests.unit.gateway.front import KEY, NOON, Front
from tests.unit.gateway.wire import turns

REFUSAL = LimitExceeded("requests", 7, 1)


async def hold(front: Front, timeout: float | None = None, key: KeyRecord = KEY) -> MachineRecord:
    return await front.admission.hold(
        front.config.models["m"], key, "r", arrived=front.now(), wake_timeout=timeout, comment=None
    )


async def refusal(front: Front, timeout: float | None = None, key: KeyRecord = KEY) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await hold(front, timeout, key)
    return caught.value


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("30", 30.0), ("0", 0.0), ("0.5", 0.5), ("1e9", 60.0), ("60", 60.0), (" 5 ", 5.0)],
)
def test_a_wake_timeout_is_in_seconds_up_to_the_cap(value: str | None, seconds: float | None) -> None:
    assert parse_wake_timeout(value, 60.0) == seconds


@given(st.sampled_from(["", "soon", "-1", "-0.1", "nan", "inf", "-inf", "1e999", "5 s", "\ud800", "0x5"]))
def test_what_is_no_number_of_seconds_is_refused(value: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_wake_timeout(value, 60.0)
    assert (caught.value.status, caught.value.param) == (400, "X-Wake-Timeout")


@given(st.text(max_size=20))
def test_any_text_is_seconds_or_refused(value: str) -> None:
    with suppress(ApiError):
        seconds = parse_wake_timeout(value, 60.0)
        assert seconds is not None
        assert 0 <= seconds <= 60


async def test_a_full_outbox_and_a_closed_gate_admit_nothing() -> None:
    front = Front()
    model = front.config.models["m"]
    front.admission.check(model)
    front.gates.reason = "closed_by_operator"
    with pytest.raises(ApiError) as closed:
        front.admission.check(model)
    front.books.fault = "disk full"
    with pytest.raises(ApiError) as full:
        front.admission.check(model)
    assert [(error.value.status, error.value.code) for error in (closed, full)] == [
        (503, "budget_closed"),
        (503, "outbox_full"),
    ]


class Slept:
    """Instead of `asyncio.sleep`: the reservation is settled after so many sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, front: Front, settled_after: int) -> None:
        self.sleeps: list[float] = []
        self.tried = 0
        self._admit = front.limits.admit
        self._settled_after = settled_after
        monkeypatch.setattr("services.gateway.app.admission.asyncio.sleep", self.sleep)
        monkeypatch.setattr(front.limits, "admit", self.admit)

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)

    def admit(self, key: KeyRecord, tokens: int, now: float) -> Reservation | LimitExceeded | Unsettled:
        self.tried += 1
        return self._admit(key, tokens, now) if len(self.sleeps) >= self._settled_after else Unsettled(REFUSAL)


@pytest.mark.parametrize("after", range(UNSETTLED_RETRIES + 1))
async def test_an_unsettled_limit_is_tried_again(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    front = Front()
    slept = Slept(monkeypatch, front, after)
    reservation = await front.admission.reserve(KEY, 10)
    assert reservation is not None
    assert (slept.sleeps, slept.tried) == ([UNSETTLED_SECONDS] * after, after + 1)
    reservation.settle(0, front.now(), None)


async def test_an_unsettled_limit_is_rejected_after_five_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    front = Front()
    slept = Slept(monkeypatch, front, 10**9)
    with pytest.raises(ApiError) as caught:
        await front.admission.reserve(KEY, 10)
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert (slept.sleeps, slept.tried) == ([0.02] * 5, 6)
    assert front.limits.hits["requests"] == 1


async def test_no_tokens_are_reserved_for_a_key_without_limits() -> None:
    free = KeyRecord(id="f", name="f", created_at=0.0)
    assert await Front().admission.reserve(free, 10**9) is None


async def test_a_place_is_taken_at_once_unless_others_wait() -> None:
    front = Front()
    front.fleet.put("s1", "ready")
    assert front.scheduler.try_acquire("m", KEY.id, front.now()) is not None
    front.fleet.clear()
    waiting = asyncio.create_task(hold(front))
    await turns(1)
    front.fleet.put("s1", "ready")
    assert front.scheduler.try_acquire("m", KEY.id, front.now()) is None, "it would pass the one that waits"
    front.dispatcher.dispatch()
    assert (await waiting).machine == "s1"
    assert (front.scheduler.total_in_flight, front.scheduler.total_waiting) == (2, 0)


async def test_wake_timeout_zero_wakes_without_waiting() -> None:
    front = Front()
    error = await refusal(front, 0.0)
    assert (error.status, error.code, error.headers["x-should-retry"]) == (503, "waking", "false")
    assert front.scheduler.total_waiting == 0
    (request,) = front.demand._once.values()
    assert (request.model, request.waiting, request.request_ids, request.deadline) == ("m", 1, ("r",), NOON + 60)


async def test_a_model_whose_machines_are_gone_is_refused_at_once() -> None:
    front = Front()
    for machine in ("s1", "s2"):
        front.fleet.put(machine, "gone")
    error = await refusal(front)
    assert (error.status, error.code) == (503, "no_upstream")


@pytest.mark.parametrize(("keys", "limit"), [(("a", "a", "a", "a", "a"), "waiting_per_key"), ("aabbccd", "waiting")])
async def test_too_many_that_wait_are_refused_and_counted(keys: tuple[str, ...] | str, limit: str) -> None:
    front = Front()
    *first, last = [KeyRecord(id=key, name=key, created_at=0.0) for key in keys]
    tasks = [asyncio.create_task(hold(front, key=key)) for key in first]
    await turns(1)
    error = await refusal(front, key=last)
    assert (error.status, error.code, front.metrics.limit_hits[limit]) == (429, "too_many_waiting", 1)
    assert front.scheduler.total_waiting == len(first)
    for task in tasks:
        task.cancel()
    await turns(2)
    assert front.scheduler.total_waiting == 0
    assert not front.scheduler.has_demand("m")


async def test_a_key_at_its_wake_limit_may_only_use_awake_machines() -> None:
    front = Front()
    used = {KEY.id: KeyWakes(key_id=KEY.id, wakes=20, cost=Decimal(0), under_way=(), day="2026-05-28")}
    front.admission.wake_limits = WakeLimits(20, Decimal(20), used)
    error = await refusal(front)
    assert (error.status, front.metrics.limit_hits["wakes"]) == (429, 1)
    front.fleet.put("s1", "ready")
    for _ in range(2):
        assert front.scheduler.try_acquire("m", KEY.id, front.now()) is not None
    waiting = asyncio.create_task(hold(front))
    await turns(1)
    assert (front.scheduler.total_waiting, front.scheduler.has_demand("m")) == (1, False)
    front.dispatcher.release("s1")
    assert (await waiting).machine == "s1"


async def test_a_failing_wake_request_leaves_no_ticket_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    front = Front()

    def fail(front: Front, _model: str) -> None:
        if front.scheduler.total_waiting:
            raise ConnectionError

    monkeypatch.setattr(type(front.demand), "changed", lambda _demand, model: partial(fail, front)(model))
    with pytest.raises(ConnectionError):
        await hold(front)
    assert front.scheduler.total_waiting == 0
