"""A request from its head to its end: what refuses it, and what ends it at each stage. Nothing of it is ever left."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import MethodType
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.gateway.adapters.http import inference
from services.gateway.app.held_request import HeldRequest
from services.gateway.core.rate_limits import LimitExceeded, Unsettled
from services.gateway.core.request_body import LARGE_BYTES
from shared.messages.keys import KeyRecord, digest
from tests.kit.raw_engine import DONE, EVENT
from tests.unit.gateway.front import CONFIG, KEY, Call, Front
from tests.unit.gateway.wire import SECRET, Fault, Wire, post, turns, until

BODY, STREAM = b'{"model":"m"}', b'{"model":"m","stream":true}'
CHUNKED = b"Transfer-Encoding: chunked"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SECRET.encode() + b"\r\n"


@asynccontextmanager
async def fronts(
    config: str = CONFIG, key: KeyRecord = KEY, *, max_buffered_bytes: int = 2**30
) -> AsyncIterator[Front]:
    front = await Front(config, key, max_buffered_bytes=max_buffered_bytes).start()
    front.fleet.put("s1", "ready")
    with capture_logs():
        yield front
    await front.stop()


def code(wire: Wire) -> tuple[int, str]:
    (response,) = wire.responses
    return response.status, response.body.partition(b'"code":"')[2].partition(b'"')[0].decode()


async def refused(front: Front, data: bytes) -> tuple[int, str]:
    wire = front.connect()
    wire.send(data)
    await until(lambda: wire.written)
    await turns()
    front.check(lines=len(front.log.lines))
    line = front.log.lines[-1]
    assert code(wire) == (line.status, line.code)
    assert (front.calls, front.books.events) == ([], [])
    return code(wire)


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (post(BODY).replace(SECRET.encode(), b"another"), (401, "invalid_api_key")),
        (post(BODY).replace(b"Bearer", b"Basic"), (401, "invalid_api_key")),
        (post(b'{"model":"x"}'), (404, "model_not_found")),
        (post(b'{"model":"secret"}'), (403, "model_not_allowed")),
        (post(b"{"), (400, "invalid_json")),
        (post(b""), (400, "invalid_json")),
        (post(BODY, b"X-Wake-Timeout: soon"), (400, "invalid_request")),
        (post(b'{"model":"m","background":true}', path=b"/v1/responses"), (400, "invalid_request")),
        (HEAD + b"\r\n", (411, "length_required")),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", (413, "request_too_large")),
        (post(BODY, b"Content-Type: text/plain"), (415, "unsupported_media_type")),
        (post(BODY, b"Content-Encoding: gzip"), (415, "unsupported_media_type")),
        (post(BODY, b"Transfer-Encoding: gzip, chunked"), (400, "invalid_request")),
    ],
)
async def test_an_invalid_request_is_rejected(front: Front, data: bytes, refusal: tuple[int, str]) -> None:
    assert await refused(front, data) == refusal


async def test_a_request_is_rejected_in_each_state_of_the_gateway(front: Front) -> None:
    front.books.fault = "the disk is full"
    assert await refused(front, post()) == (503, "outbox_full")
    front.books.fault = None
    front.gates.reason = "closed_by_operator"
    assert await refused(front, post()) == (503, "budget_closed")
    front.gates.reason = None
    front.lifecycle.is_closed = True
    assert await refused(front, post()) == (503, "waking")
    front.lifecycle.is_closed = False
    front.memory.max_bytes = 5
    assert await refused(front, post()) == (429, "too_many_waiting")
    front.memory.max_bytes = 2**30
    front.fleet.put("s1", "gone")
    front.fleet.put("s2", "gone")
    assert await refused(front, post()) == (503, "no_upstream")
    front.fleet.clear()
    assert await refused(front, post(BODY, b"X-Wake-Timeout: 0")) == (503, "waking")


async def test_a_body_that_turns_out_too_large_is_refused() -> None:
    async with fronts(CONFIG.replace("[gateway]", "[gateway]\nmax_body_bytes = 1024")) as front:
        wire = front.connect()
        wire.send(HEAD + CHUNKED + b"\r\n\r\n" + b"200\r\n" + b"x" * 512 + b"\r\n")
        await turns()
        assert not wire.written
        wire.send(b"201\r\n" + b"x" * 513)
        await until(lambda: wire.written)
        assert code(wire) == (413, "request_too_large")
        wire.abort()
        await turns()
        front.check()


async def test_a_body_that_does_not_come_is_waited_for_so_long(front: Front) -> None:
    wire = front.connect()
    wire.send(post(BODY)[:-1])
    await turns()
    ticks = 0
    while not wire.written and ticks < 1000:
        front.monotonic += 10.0  # the process was held up: of that a second counts
        front.connections.tick()
        await turns(6)
        ticks += 1
    assert code(wire) == (408, "request_timeout")
    assert ticks == int(front.settings.body_timeout)
    wire.abort()
    await turns()
    front.check()


async def test_100_continue_is_sent_once_the_head_is_valid(front: Front) -> None:
    wire = front.connect()
    wire.send(post(BODY, b"Expect: 100-continue")[: -len(BODY)])
    await until(lambda: wire.written)
    assert wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.send(BODY)
    await until(lambda: front.calls)
    bad = front.connect()
    bad.send(post(b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 9").replace(SECRET.encode(), b"?"))
    await until(lambda: bad.written)
    assert code(bad) == (401, "invalid_api_key")


async def test_an_http_1_0_client_gets_one_response(front: Front) -> None:
    wire = front.connect()
    wire.send(post(BODY, b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")[:-1])
    await turns()
    assert not wire.written, "it knows no interim one"


async def test_a_key_s_requests_at_once_are_bounded() -> None:
    async with fronts(key=KeyRecord(id="k", name="k", created_at=0.0, concurrency=1)) as front:
        first = await front.ask()
        second = await front.ask(BODY)
        assert code(second) == (429, "rate_limit_exceeded")
        first.abort()
        await turns()
        assert len((await front.ask()).written) == 0
        assert len(front.calls) == 2


def _revoke(front: Front) -> None:
    front.keys[digest(SECRET)] = KeyRecord(id="k", name="k", created_at=0.0, revoked_at=1.0)


def _fill(front: Front) -> None:
    front.books.fault = "the disk is full"


@pytest.mark.parametrize(("change", "error"), [(_revoke, (401, "invalid_api_key")), (_fill, (503, "outbox_full"))])
async def test_a_request_that_may_no_longer_be_served_releases_its_place(
    front: Front, change: Callable[[Front], None], error: tuple[int, str]
) -> None:
    front.fleet.clear()
    wire = await front.ask(BODY)
    change(front)
    front.fleet.put("s1", "ready")
    front.dispatcher.on_fleet_change("s1")
    await until(lambda: wire.written)
    assert code(wire) == error
    await turns()
    assert not front.calls
    front.check()


# What ends it at each stage.


async def _receiving(front: Front) -> Wire:
    wire = front.connect()
    wire.send(post(BODY)[:-1])
    return wire


async def _parsing(front: Front) -> Wire:
    await front.inference._parsing.acquire()
    wire = front.connect()
    wire.send(post(b'{"model":"m","prompt":"%b"}' % (b"x" * LARGE_BYTES)))
    await turns(3)
    return wire


async def _reserving(front: Front) -> Wire:
    front.limits.admit = lambda *_: Unsettled(LimitExceeded("requests", 1, 1))  # type: ignore[method-assign]  # replicas that never agree
    return await front.ask()


async def _held(front: Front) -> Wire:
    front.fleet.clear()
    return await front.ask()


def pass_time(front: Front, seconds: float) -> None:
    """As the timers of those that wait have it."""
    front.time += seconds
    for ticket in list(front.scheduler.waiting("m")):
        buffered = cast("MethodType", ticket.on_grant).__self__
        assert isinstance(buffered, HeldRequest)
        buffered._on_time(ticket, 60.0)


async def _report(front: Front) -> Wire:
    wire = await _held(front)
    pass_time(front, 11.0)
    await turns(2)
    assert wire.written
    return wire


async def _granted(front: Front) -> Wire:
    """It will be in the iteration in which something else happens to it."""
    return await _held(front)


def grant(front: Front) -> None:
    front.fleet.put("s1", "ready")
    front.dispatcher.on_fleet_change("s1")
    assert front.scheduler.total_in_flight == 1


async def _sent(front: Front) -> Wire:
    return await front.ask()


async def _streaming(front: Front) -> Wire:
    wire = await front.ask()
    front.calls[0].answer()
    front.calls[0].feed(EVENT)
    return wire


async def _buffering(front: Front) -> Wire:
    wire = await front.ask(BODY)
    front.calls[0].answer(content_type=b"application/json")
    front.calls[0].feed(b"{")
    return wire


Stage = Callable[[Front], Coroutine[Any, Any, Wire]]
STAGES: list[Stage] = [_receiving, _parsing, _reserving, _held, _report, _granted, _sent, _streaming, _buffering]
AT_ENGINE: tuple[Stage, ...] = (_sent, _streaming, _buffering)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_client_may_leave_at_any_stage(front: Front, stage: Stage) -> None:
    wire = await stage(front)
    started = len(front.lifecycle.exchanges)
    written = bytes(wire.written)
    if stage is _granted:
        grant(front)
    wire.lose()
    await turns()
    front.check(lines=started)
    assert [line.status for line in front.log.lines] == [499] * started
    assert bytes(wire.written) == written
    assert [event.outcome for event in front.books.events] == ["client_closed"] * (stage in AT_ENGINE)
    assert all(call.aborted for call in front.calls)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("stage", STAGES)
async def test_the_drain_may_come_at_any_stage(front: Front, stage: Stage, *, both: bool) -> None:
    wire = await stage(front)
    if stage is _receiving:
        await turns(2)
    drain = asyncio.create_task(front.lifecycle.drain(0.0))
    if stage is _granted:
        grant(front)
    await turns(1)
    if both:
        wire.lose()
    await until(drain.done)
    await turns()
    front.check()
    if not both:
        assert b'"code":"waking"' in wire.responses[0].body
        status = 200 if stage in {_report, _streaming} else 503
        assert [(line.status, line.code) for line in front.log.lines] == [(status, "waking")]
        assert wire.responses[0].status == status
    assert [event.outcome for event in front.books.events] in ([], ["engine_lost"], ["client_closed"])
    assert len(front.books.events) == (stage in AT_ENGINE or stage is _granted)
    assert all(call.aborted for call in front.calls)


async def test_the_drain_leaves_what_an_engine_has_its_time(front: Front) -> None:
    wire = await front.ask()
    drain = asyncio.create_task(front.lifecycle.drain(60.0))
    await turns()
    front.calls[0].answer()
    front.calls[0].feed(EVENT + DONE)
    front.calls[0].receiver.on_end()
    await until(drain.done)
    await turns()
    assert (wire.responses[0].body, wire.has_eof) == (EVENT + DONE, True)
    front.check()


# A fault of ours.


async def test_an_internal_error_gets_500_and_the_connection_stays_open(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_body: bytes) -> None:
        raise Fault("parse")

    with monkeypatch.context() as patch:
        patch.setattr(inference, "parse", fail)
        wire = await front.ask()
        await until(lambda: wire.written)
    assert code(wire) == (500, "internal_error")
    await turns()
    front.check()
    wire.send(post(BODY))
    await until(lambda: front.calls)
    assert not wire.closing


@pytest.mark.parametrize("where", ["open_response", "write"])
async def test_a_failure_before_the_response_exists_closes_the_connection(
    front: Front, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_args: object) -> None:
        raise Fault(where)

    front.breaks = {where}
    if where == "write":
        monkeypatch.setattr(front.log, "write", fail)
    wire = await front.ask(b"{")
    await until(lambda: wire.closing)
    assert wire.aborted
    front.check(lines=0)


# All of it, in any order.

ACTIONS = st.sampled_from([
    "ask", "ask_slowly", "rest", "leave", "lose", "slow", "fast", "ready", "asleep", "turn", "deadline", "evict",
    "head", "whole", "500", "chunk", "done", "end", "lost", "unreachable",
])  # fmt: skip


def _act(front: Front, action: str, pick: int) -> None:
    calls = [call for call in front.calls if not call.aborted and not call.is_over]
    wires = [wire for wire in front.wires if not wire.closing]
    if action == "ask":
        front.connect().send(post(STREAM if pick % 2 else BODY))
    elif action == "ask_slowly":
        front.connect().send(post(BODY)[:-1])
    elif action in OF_CLIENTS:
        if wires:
            _go_on(wires[pick % len(wires)], action)
    elif action in {"ready", "asleep"}:
        machine = f"s{pick % 2 + 1}"
        front.fleet.put(machine, "ready" if action == "ready" else "asleep")
        front.dispatcher.on_fleet_change(machine)
    elif action == "deadline":
        pass_time(front, 60.0)
    elif action == "evict":
        front.gates.reason = "closed_by_operator"
        front.dispatcher.check_gates()
        front.gates.reason = None
    elif calls:
        _answer(calls[pick % len(calls)], action)


OF_CLIENTS = ("rest", "leave", "lose", "slow", "fast")


def _go_on(wire: Wire, action: str) -> None:
    if action == "rest" and wire.protocol.is_receiving_body:
        wire.send(b"}")
    elif action == "leave":
        wire.abort()
    elif action == "lose":
        wire.lose()
    elif action == "slow" and not wire.protocol.writing_paused:
        wire.protocol.pause_writing()
    elif action == "fast" and wire.protocol.writing_paused:
        wire.protocol.resume_writing()


HEADS = {"head": (200, b"text/event-stream"), "whole": (200, b"application/json"), "500": (500, b"text/plain")}


def _answer(call: Call, action: str) -> None:
    if action in HEADS:
        if not call.has_head:
            call.answer(*HEADS[action])
    elif action in {"lost", "unreachable"}:
        call.is_over = True
        call.receiver.on_lost("died", unreachable=action == "unreachable")
    elif call.has_head and action == "end":
        call.is_over = True
        call.receiver.on_end()
    elif call.has_head:
        call.feed(EVENT if action == "chunk" else DONE)


async def _play(actions: list[tuple[str, int]], *, drains: bool) -> None:
    async with fronts() as front:
        for action, pick in actions:
            if action == "turn":
                await turns(1 + pick % 3)
            else:
                _act(front, action, pick)
        if drains:
            await front.lifecycle.drain(0.0)
        else:
            for wire in front.wires:
                wire.abort()
        await turns(30)
        for wire in front.wires:
            wire.abort()
        await turns(30)
        front.check(lines=len(front.log.lines))
        assert sum(front.metrics.answers.values()) == len(front.log.lines)
        assert all(call.aborted or call.is_over for call in front.calls)
        assert len(front.books.events) <= len(front.log.lines) <= len(front.wires)
        ids = [line.request_id for line in front.log.lines]
        assert len(set(ids)) == len(ids)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(ACTIONS.map(lambda action: action[0]), st.integers(0, 7)), max_size=25), st.booleans())
def test_nothing_leaks_in_any_order_of_events(actions: list[tuple[str, int]], drains: bool) -> None:
    asyncio.run(_play(actions, drains=drains))
