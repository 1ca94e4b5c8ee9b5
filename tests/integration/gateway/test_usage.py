"""What is counted of each request, however it ends, and when nothing new may be started."""

import time
from collections.abc import Awaitable, Callable
from decimal import Decimal

from shared.budget_gates import FLEET_SCOPE
from shared.bus.subjects import budget_key
from shared.bus.topology import BUDGET
from shared.messages.budget import BudgetGate
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent
from tests.integration.gateway.conftest import MODEL, Front
from tests.integration.gateway.hostile import BODY, STREAM, own_error, send_request, whole
from tests.kit.ports import free_port
from tests.kit.raw_http import Answer, connected
from tests.kit.scripted_engine import Script, ScriptedEngine
from tests.kit.waiting import PATIENCE_SECONDS, until

Opened = Callable[..., Awaitable[Front]]
EMBED = b'{"model":"org/model","input":"honest"}'


def summary_of(event: UsageEvent) -> tuple[object, ...]:
    """What the ledger makes of it."""
    tokens = (event.prompt_tokens, event.cached_tokens, event.completion_tokens, event.reasoning_tokens)
    return (event.outcome, event.status, event.basis, *tokens)


async def newest(front: Front, number: int) -> UsageEvent:
    """The event of this number, from 1; there are no more."""
    events = await front.usage(number)
    assert [event.source_seq for event in events] == list(range(1, number + 1))
    return events[-1]


async def left_after(front: Front, engine: ScriptedEngine, expected: bytes) -> None:
    """A client that leaves once it has seen this, and an engine that hears of it."""
    async with connected(front.url) as connection:
        await connection.send(whole(front, STREAM))
        seen = await engine.received(len(engine.requests) + 1)
        if expected:
            await connection.until(expected)
    assert await seen.ended() == "left"


async def test_an_event_carries_the_bounds_of_its_request(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen()
    body = BODY[:-1] + b',"n":2,"max_tokens":16}'
    await send_request(front, whole(front, body))
    event = await newest(front, 1)
    assert (event.choices, event.max_tokens, event.body_bytes) == (2, 16, len(body))


async def test_every_end_of_a_request_is_one_event(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    engine = scripted_engine
    await front.machine("m1", "ready", engine.base_url)
    await front.seen()
    counted = Script(tokens=9, prompt_tokens=30, cached_tokens=10, reasoning_tokens=4)
    answers: list[Answer] = []

    engine.default = counted
    answers.append(await send_request(front, whole(front)))
    assert summary_of(await newest(front, 1)) == ("completed", 200, "engine", 30, 10, 9, 4)
    answers.append(await send_request(front, whole(front, STREAM)))
    assert summary_of(await newest(front, 2)) == ("completed", 200, "engine", 30, 10, 9, 4)
    answers.append(await send_request(front, whole(front, EMBED, target="/v1/embeddings")))
    event = await newest(front, 3)
    assert (event.outcome, event.prompt_tokens, event.completion_tokens) == ("completed", 30, 0)

    engine.default = Script(status=400)
    answers.append(await send_request(front, whole(front)))
    assert summary_of(await newest(front, 4)) == ("failed", 400, "none", 0, 0, 0, 0)
    engine.default = Script(status=500)
    answers.append(await send_request(front, whole(front, STREAM)))
    assert summary_of(await newest(front, 5)) == ("failed", 500, "none", 0, 0, 0, 0)

    engine.default = Script(tokens=50, prompt_tokens=30, hold_after=4)
    await left_after(front, engine, b" w3")
    assert summary_of(await newest(front, 6)) == ("client_closed", 200, "engine", 30, 0, 3, 0), "its last running total"
    engine.default = Script(tokens=50, hold_after=0)
    await left_after(front, engine, b"")
    assert summary_of(await newest(front, 7)) == ("client_closed", 0, "none", 0, 0, 0, 0)

    engine.default = Script(tokens=50, prompt_tokens=30, reset_after=4)
    answers.append(await send_request(front, whole(front, STREAM)))
    assert summary_of(await newest(front, 8)) == ("engine_lost", 200, "engine", 30, 0, 3, 0)

    reported = {answer.headers["x-request-id"] for answer in answers}
    assert len(reported) == len(answers)
    events = await front.usage(8)
    assert reported <= {event.id for event in events} == {seen.headers["x-request-id"] for seen in engine.requests}
    for event in events:
        assert (event.key_id, event.model, event.machine, event.tier) == (front.key_id, MODEL, "m1", "first")
        assert (event.generation, event.wake_wait, event.wake_id) == (3, 0, None)
        assert 0 < event.overhead <= event.duration < PATIENCE_SECONDS
        assert (event.first_token is None) == (event.status == 0)
        assert 0 <= time.time() - event.completed_at < 60
    assert [event.streamed for event in events] == [False, True, False, False, True, True, True, True]
    assert await front.metric("tokens_total", direction="completion") == 9 + 9 + 3 + 3


async def test_what_no_engine_saw_is_no_event(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    await front.machine("m1", "asleep")
    async with connected(front.url) as waiting:
        await waiting.send(whole(front))
        await front.wake_request(lambda request: request.waiting == 1)
    await front.wake_request(lambda request: request.waiting == 0)
    assert own_error(await send_request(front, whole(front, BODY, "X-Wake-Timeout: 0.05"))) == "503 waking"
    await front.machine("m1", "ready", f"http://127.0.0.1:{free_port()}")
    assert own_error(await send_request(front, whole(front))) == "502 upstream_unreachable"
    assert own_error(await send_request(front, whole(front, b"{"))) == "400 invalid_json"
    await front.machine("m1", "gone")
    await front.machine("m2", "gone")
    await front.seen()
    assert own_error(await send_request(front, whole(front))) == "503 no_upstream"
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen()
    answer = await send_request(front, whole(front))
    assert (await newest(front, 1)).id == answer.headers["x-request-id"]
    assert await front.metric("in_flight") == await front.metric("waiting") == 0


async def test_the_wake_wait_is_left_out_of_all_other_times(opened: Opened, scripted_engine: ScriptedEngine) -> None:
    front = await opened()
    async with connected(front.url) as waiting:
        await waiting.send(whole(front, STREAM))
        await waiting.until(b": waking")
        await front.machine("m1", "ready", scripted_engine.base_url)
        await waiting.until(b"[DONE]")
    event = await newest(front, 1)
    assert event.wake_id == "wake-1"
    assert 0.2 <= event.wake_wait <= event.duration, "comments begin after 200 ms"
    assert event.first_token is not None
    assert event.overhead <= event.first_token <= event.duration - event.wake_wait


async def test_a_closed_budget_gate_rejects_new_requests_and_ends_no_running_one(
    opened: Opened, scripted_engine: ScriptedEngine
) -> None:
    front = await opened(more='[billing]\ndaily_budget = "10.00"')
    await front.machine("m1", "ready", scripted_engine.base_url)

    async def gate(reason: str = "", *, ago: float = 0.0) -> None:
        seen = BudgetGate(
            open=not reason, reason=reason, spend=Decimal(9), limit=Decimal(10), observed_at=time.time() - ago
        )
        await front.bus.put(BUDGET, budget_key(FLEET_SCOPE), encode(seen))

    async def reported() -> str:
        answer = await send_request(front, whole(front))
        error = "200" if answer.status == 200 else own_error(answer)
        # This gateway has just started: billing may not have observed anything yet.
        is_early = error == "503 billing_unobservable"
        assert answer.headers.get("retry-after") == ("5" if is_early else None)
        assert answer.headers.get("x-should-retry") == {"503 billing_unobservable": "true", "200": None}.get(
            error, "false"
        )
        return error

    assert await reported() == "503 billing_unobservable", "never told is not open"
    await gate()
    await until(reported, lambda answer: answer == "200")
    scripted_engine.default = Script(tokens=3, hold_after=2)
    async with connected(front.url) as running:
        await running.send(whole(front, STREAM))
        await running.until(b" w1")
        scripted_engine.default = Script()
        await gate("budget_closed")
        await until(reported, lambda answer: answer == "503 budget_closed")
        await gate(ago=301)
        await until(reported, lambda answer: answer == "503 billing_unobservable")
        served = len(scripted_engine.requests)
        scripted_engine.release()
        rest = await running.until(b"[DONE]")
        assert rest.count(b" w") == 2
        assert len(scripted_engine.requests) == served
    await gate()
    await until(reported, lambda answer: answer == "200")
    assert {event.outcome for event in await front.usage(len(scripted_engine.requests))} == {"completed"}
    listed = await front.sdk.models.list()
    assert [model.id for model in listed.data] == [MODEL]
    assert await front.metric("answers_total", code="budget_closed") >= 1
