"""Budget gates at the front door: whole lineups, halves of them, and what becomes of those who wait."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal

import pytest

from shared.budget_gates import FLEET_SCOPE, tier_scope
from shared.bus.subjects import budget_key
from shared.bus.topology import BUDGET
from shared.messages.budget import BudgetGate
from shared.messages.codec import encode
from shared.tasks import cancel_and_wait
from tests.integration.gateway.conftest import MODEL, Front
from tests.integration.gateway.hostile import BODY, STREAM, own_error, send_request, whole
from tests.kit.raw_http import RawConnection, connected
from tests.kit.scripted_engine import ScriptedEngine, scripted
from tests.kit.waiting import until

Opened = Callable[..., Awaitable[Front]]
TIER = 'price_per_hour = "1"\ndaily_budget = "5"'
FIRST, SECOND = tier_scope("first"), tier_scope("second")


async def gate(front: Front, scope: str, reason: str = "", *, ago: float = 0.0) -> None:
    seen = BudgetGate(open=not reason, reason=reason, spend=Decimal(1), limit=Decimal(5), observed_at=time.time() - ago)
    await front.bus.put(BUDGET, budget_key(scope), encode(seen))


async def code_of(front: Front, *headers: str) -> str:
    answer = await send_request(front, whole(front, BODY, *headers))
    return "200" if answer.status == 200 else own_error(answer)


@pytest.fixture
async def front(opened: Opened) -> Front:
    """Both tiers have budgets, and both gates are open."""
    made = await opened(tier=TIER)
    for scope in (FIRST, SECOND):
        await gate(made, scope)
    return made


@asynccontextmanager
async def held(front: Front, body: bytes) -> AsyncIterator[RawConnection]:
    """One request that waits for a machine, by a gateway that knows of an open gate."""
    await until(lambda: code_of(front, "X-Wake-Timeout: 0"), lambda answer: answer == "503 waking")
    async with connected(front.url) as connection:
        await connection.send(whole(front, body))
        await until(lambda: front.metric("waiting"), lambda waiting: waiting == 1)
        yield connection


@asynccontextmanager
async def first_closed(front: Front) -> AsyncIterator[tuple[ScriptedEngine, ScriptedEngine]]:
    """Both machines are ready, and requests pass over the first tier, which is closed."""
    async with scripted() as first, scripted() as second:
        await front.machine("m1", "ready", first.base_url)
        await front.machine("m2", "ready", second.base_url)
        await until(lambda: code_of(front), lambda answer: answer == "200")
        assert (len(first.requests) > 0, second.requests) == (True, [])
        await gate(front, FIRST, "budget_closed")
        await until(lambda: code_of(front), lambda answer: answer == "200" and bool(second.requests))
        yield first, second


async def test_a_closed_tier_is_passed_over_and_a_lineup_of_closed_tiers_is_refused(front: Front) -> None:
    async with first_closed(front) as (first, second):
        before = len(first.requests), len(second.requests)
        assert await code_of(front) == "200"
        assert (len(first.requests), len(second.requests)) == (before[0], before[1] + 1)
        await gate(front, SECOND, "closed_by_operator")
        await until(lambda: code_of(front), lambda answer: answer == "503 budget_closed")
        await gate(front, SECOND, ago=301)
        await gate(front, FIRST, ago=301)
        await until(lambda: code_of(front), lambda answer: answer == "503 billing_unobservable")
        await gate(front, FIRST)
        await until(lambda: code_of(front), lambda answer: answer == "200")


async def test_a_held_request_does_not_go_to_a_closed_tier_before_that_opens(front: Front) -> None:
    async with first_closed(front) as (first, _):
        before = len(first.requests)
        await front.machine("m2", "asleep")
        await front.seen()
        async with held(front, BODY) as connection:  # the first tier's machine is ready, and has room
            assert len(first.requests) == before
            await gate(front, FIRST)
            answer = await connection.answer()
            assert answer is not None
            assert (answer.status, len(first.requests)) == (200, before + 1)


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_held_requests_are_rejected_when_all_their_tiers_close(front: Front, body: bytes) -> None:
    async with held(front, body) as connection:
        if body is STREAM:
            await connection.until(b": waking tier=first")
        await gate(front, FIRST, "budget_closed")
        if body is STREAM:
            await connection.until(b": waking tier=second")
        await gate(front, SECOND, "budget_closed")
        if body is STREAM:
            rest = await connection.until(b"}}\n\n")
            assert b'"code":"budget_closed"' in rest
            assert b"[DONE]" not in rest
        else:
            answer = await connection.answer()
            assert answer is not None
            assert own_error(answer) == "503 budget_closed"
            assert answer.headers["x-should-retry"] == "false"
    await front.wake_request(lambda request: request.waiting == 0)
    assert await front.metric("waiting") == 0


async def test_held_requests_are_rejected_when_the_fleets_gate_closes(opened: Opened) -> None:
    front = await opened(more='[billing]\ndaily_budget = "10.00"')
    await gate(front, FLEET_SCOPE)
    async with held(front, BODY) as connection:
        await gate(front, FLEET_SCOPE, "budget_closed")
        answer = await connection.answer()
        assert answer is not None
        assert own_error(answer) == "503 budget_closed"


async def test_held_requests_are_rejected_when_the_gate_goes_stale(opened: Opened) -> None:
    front = await opened(more='[billing]\ndaily_budget = "10.00"\nobservation_timeout = "5s"')

    async def kept_fresh() -> None:
        while True:
            await gate(front, FLEET_SCOPE)
            await asyncio.sleep(0.2)

    fresh = asyncio.create_task(kept_fresh())
    async with held(front, BODY) as connection:
        await cancel_and_wait([fresh])
        answer = await connection.answer()  # nobody says anything to the gateway meanwhile
        assert answer is not None
        assert own_error(answer) == "503 billing_unobservable"
        # The gateway has run for longer than an observation holds: this is no start.
        assert (answer.headers["x-should-retry"], answer.headers.get("retry-after")) == ("false", None)


@pytest.mark.long  # the SDK waits for 5 s
async def test_an_sdk_waits_for_the_first_observation(opened: Opened) -> None:
    front = await opened(more='[billing]\ndaily_budget = "10.00"')
    async with scripted() as engine:
        await front.machine("m1", "ready", engine.base_url)
        ask = front.sdk.with_options(max_retries=2).chat.completions.create
        asking = asyncio.create_task(ask(model=MODEL, messages=[{"role": "user", "content": "hi"}]))
        await until(lambda: front.metric("answers_total", code="billing_unobservable"), bool)
        await gate(front, FLEET_SCOPE)
        assert (await asking).choices[0].finish_reason


async def test_all_of_many_held_requests_are_rejected_when_the_gate_closes(front: Front) -> None:
    await until(lambda: code_of(front, "X-Wake-Timeout: 0"), lambda answer: answer == "503 waking")
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(front.url)) for _ in range(150)]
        for connection in connections:
            await connection.send(whole(front))
        await until(lambda: front.metric("waiting"), lambda waiting: waiting == 150)
        for scope in (FIRST, SECOND):
            await gate(front, scope, "budget_closed")
        for connection in connections:
            answer = await connection.answer()
            assert answer is not None
            assert own_error(answer) == "503 budget_closed"
