"""A fault in the middle of a response ends that one request with an error; who is blamed; and what goes to clients."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.adapters.http.client_response import ClientResponse
from services.gateway.adapters.http.response_headers import MAX_BYTES, forwarded_headers
from services.gateway.app.dispatcher import Dispatcher
from services.gateway.core import errors
from services.gateway.core.breaker import FAILURES
from services.gateway.core.engine_error import EngineError, is_machine_failure, is_refusal, read_error
from shared.messages.gateway import UsageEvent
from tests.kit.raw_engine import DONE, EVENT
from tests.unit.gateway.front import KEY, Call, Front
from tests.unit.gateway.wire import Fault, Wire, turns, until

JSON, STREAM = b"application/json", b"text/event-stream"
WHOLE = b'{"object":"chat.completion","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'


async def start_call(front: Front, body: bytes = b'{"model":"m","stream":true}') -> tuple[Wire, Call]:
    """A request that an engine has."""
    calls = len(front.calls)
    wire = await front.ask(body)
    await until(lambda: len(front.calls) > calls)
    return wire, front.calls[-1]


async def ended(front: Front, wire: Wire) -> None:
    await until(lambda: not front.lifecycle.exchanges)
    await turns(4)
    assert wire.closing or not wire.protocol.is_busy


def breaks_once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Its next call fails."""
    before: Callable[..., object] = getattr(owner, name)
    faults = [Fault(name)]

    def break_or_not(*args: Any, **kwargs: Any) -> object:
        if faults:
            raise faults.pop()
        return before(*args, **kwargs)

    monkeypatch.setattr(owner, name, break_or_not)


async def test_a_fault_on_the_way_to_the_engine_ends_the_request(front: Front) -> None:
    front.breaks = {"call"}
    wire = await front.ask()
    await ended(front, wire)
    assert [r.status for r in wire.responses] == [502]
    assert (b"upstream_unreachable" in wire.written, front.metrics.faults) == (True, 1)
    front.check()


@pytest.mark.parametrize("content_type", [JSON, STREAM])
async def test_a_fault_at_the_head_ends_the_request(
    front: Front, monkeypatch: pytest.MonkeyPatch, content_type: bytes
) -> None:
    wire, call = await start_call(front)
    if content_type == STREAM:
        breaks_once(monkeypatch, ClientResponse, "start")
    else:
        front.breaks = {"now"}
    call.answer(content_type=content_type)
    call.feed(b"what comes then belongs to nobody")
    front.breaks = set()
    await ended(front, wire)
    assert (len(wire.responses), front.metrics.faults, call.aborted) == (1, 1, True)
    front.check()


@pytest.mark.parametrize("where", ["now", "send", "record"])
async def test_a_fault_in_a_stream_ends_it_with_an_error(
    front: Front, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    wire, call = await start_call(front)
    if where == "send":
        breaks_once(monkeypatch, ClientResponse, "send")
    call.answer()
    front.books.breaks = where == "record"
    front.breaks = {where}
    call.feed(EVENT + DONE)
    front.breaks = set()
    await ended(front, wire)
    (response,) = wire.responses
    assert (response.status, b"engine_lost" in response.body, front.metrics.faults) == (200, True, 1)
    assert (call.aborted, len(front.books.events)) == (True, where != "record")
    front.check()


@pytest.mark.parametrize(("content_type", "where"), [(JSON, "respond"), (STREAM, "end")])
async def test_a_fault_at_the_end_ends_the_request(
    front: Front, monkeypatch: pytest.MonkeyPatch, content_type: bytes, where: str
) -> None:
    wire, call = await start_call(front)
    call.answer(content_type=content_type)
    call.feed(EVENT + DONE if content_type == STREAM else WHOLE)
    breaks_once(monkeypatch, ClientResponse, where)
    call.receiver.on_end()
    await ended(front, wire)
    (response,) = wire.responses
    assert front.metrics.faults == 1
    assert b'"code":"' in response.body
    front.check()


async def test_a_failure_while_reporting_an_error_closes_the_connection(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    del front.fleet["s2"]
    wire, call = await start_call(front)

    def fail(*_args: object) -> None:
        raise Fault("fail")

    monkeypatch.setattr(ClientResponse, "fail", fail)
    call.receiver.on_lost("died", unreachable=False)
    await until(lambda: wire.closing)
    assert wire.aborted
    front.check()


async def test_places_and_limits_are_released_when_usage_cannot_be_recorded(front: Front) -> None:
    wire, call = await start_call(front)
    front.books.breaks = True
    call.answer(content_type=JSON)
    call.feed(WHOLE)
    call.receiver.on_end()
    await ended(front, wire)
    assert [r.status for r in wire.responses] == [502]
    front.check()


@pytest.mark.parametrize("unreachable", [True, False])
async def test_which_machine_a_lost_response_counts_against(front: Front, *, unreachable: bool) -> None:
    del front.fleet["s2"]
    for _ in range(FAILURES):
        wire, call = await start_call(front)
        call.receiver.on_lost("refused" if unreachable else "reset", unreachable=unreachable)
        await ended(front, wire)
    breaker = front.scheduler.breaker
    assert breaker.is_closed("s1", "somebody else", front.now()) == (not unreachable)
    assert not breaker.is_closed("s1", KEY.id, front.now())
    front.check(lines=FAILURES)


@pytest.mark.parametrize("content_type", [JSON, STREAM])
async def test_usage_is_recorded_once_and_before_the_end(front: Front, content_type: bytes) -> None:
    wire, call = await start_call(front)
    exchange = front.exchange
    ends: list[bool] = []
    front.books.on_event = lambda _event: ends.append(exchange.response.ended)
    call.answer(content_type=content_type)
    call.feed(EVENT + DONE if content_type == STREAM else WHOLE)
    call.receiver.on_end()
    await ended(front, wire)
    assert ends == [False]
    assert [(event.outcome, event.status) for event in front.books.events] == [("completed", 200)]
    assert [(line.status, line.outcome) for line in front.log.lines] == [(200, "completed")]
    event = front.books.events[0]
    assert front.limits._keys[KEY.id].used[1] == event.prompt_tokens + event.completion_tokens > 0
    front.check()


async def test_a_failing_release_does_not_block_the_shutdown(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    del front.fleet["s2"]
    wire, call = await start_call(front)
    breaks_once(monkeypatch, Dispatcher, "release")
    call.receiver.on_lost("reset", unreachable=True)
    await until(lambda: wire.closing)
    assert (wire.aborted, front.memory.used, front.lifecycle.exchanges) == (True, 0, set())


def moves(front: Front) -> list[tuple[str | None, str, int]]:
    return [(event.moved_from, event.machine, event.status) for event in front.books.events]


@pytest.mark.parametrize("reported", ["500", "lost"])
async def test_a_failure_before_the_first_byte_fails_over(front: Front, reported: str) -> None:
    wire, first = await start_call(front, b'{"model":"m"}')
    if reported == "500":
        first.answer(500, JSON)
    else:
        first.receiver.on_lost("reset", unreachable=False)
    second = front.calls[1]
    assert (second.origin != first.origin, front.scheduler.total_in_flight, first.aborted) == (True, 1, True)
    second.answer(content_type=JSON)
    second.feed(WHOLE)
    second.receiver.on_end()
    await ended(front, wire)
    assert [(r.status, r.body) for r in wire.responses] == [(200, WHOLE)]
    assert (moves(front), front.metrics.failovers) == ([("s1", "s2", 200)], 1)
    front.check()


async def test_failover_happens_once(front: Front) -> None:
    wire, first = await start_call(front, b'{"model":"m"}')
    first.receiver.on_lost("reset", unreachable=False)
    front.calls[1].receiver.on_lost("reset", unreachable=False)
    await ended(front, wire)
    assert [r.status for r in wire.responses] == [502]
    assert (len(front.calls), moves(front)) == (2, [("s1", "s2", 0)])
    front.check()


async def test_a_client_that_does_not_read_pauses_the_engine_even_another_one(front: Front) -> None:
    wire, first = await start_call(front)
    wire.protocol.pause_writing()
    assert first.paused
    first.receiver.on_lost("reset", unreachable=True)
    second = front.calls[1]
    assert second.paused
    wire.protocol.resume_writing()
    assert not second.paused
    wire.abort()
    await ended(front, wire)
    front.check()


async def test_a_buffered_response_without_memory_is_rejected(front: Front) -> None:
    wire, call = await start_call(front, b'{"model":"m"}')
    call.answer(content_type=JSON)
    front.memory.max_bytes = 10
    call.feed(b"x" * 11)
    await ended(front, wire)
    assert ([r.status for r in wire.responses], call.aborted) == ([429], True)
    front.check()


async def test_a_buffered_response_is_held_until_its_client_has_read_it(front: Front) -> None:
    wire, call = await start_call(front, b'{"model":"m"}')
    wire.protocol.pause_writing()
    call.answer(content_type=JSON)
    call.feed(WHOLE)
    call.receiver.on_end()
    await until(lambda: not front.lifecycle.exchanges)
    assert (front.memory.used, front.connections.unread) == (len(WHOLE), 1)
    wire.protocol.resume_writing()
    await ended(front, wire)
    assert front.connections.unread == 0
    front.check()


@pytest.mark.parametrize("status", [200, 204, 400, 413, 429, 501])
async def test_the_connection_stays_open_after_any_status_of_an_engine(front: Front, status: int) -> None:
    wire, call = await start_call(front, b'{"model":"m"}')
    call.answer(status, JSON)
    call.receiver.on_end()
    await ended(front, wire)
    (response,) = wire.responses
    assert (response.status, b"connection: close" in response.head, wire.has_eof) == (status, False, False)


async def test_one_that_comes_as_its_slow_client_leaves_is_held_no_more(front: Front) -> None:
    wire, call = await start_call(front, b'{"model":"m"}')
    wire.protocol.pause_writing()
    call.answer(content_type=JSON)
    call.feed(WHOLE)
    wire.lose()
    call.receiver.on_end()
    await ended(front, wire)
    front.check()


@pytest.mark.parametrize("leaves", ["client", "drain"])
async def test_a_client_leaving_after_the_end_changes_nothing(front: Front, leaves: str) -> None:
    wire, call = await start_call(front)
    exchange = front.exchange
    call.answer()
    call.feed(EVENT + DONE)
    call.receiver.on_end()
    if leaves == "client":
        wire.lose()
    else:
        exchange.interrupt(errors.leaving())
    await until(lambda: not front.lifecycle.exchanges)
    await turns()
    if leaves == "drain":
        assert [response.body for response in wire.responses] == [EVENT + DONE]
    assert [(line.status, line.code, line.outcome) for line in front.log.lines] == [(200, "", "completed")]
    assert [event.outcome for event in front.books.events] == ["completed"]
    front.check()


@pytest.mark.parametrize("content", [b"", EVENT, EVENT + DONE])
async def test_a_client_that_leaves_has_its_engine_stopped_and_is_recorded_once(front: Front, content: bytes) -> None:
    wire, call = await start_call(front)
    call.answer()
    if content:
        call.feed(content)
    wire.abort()
    await ended(front, wire)
    outcome = "completed" if content.endswith(DONE) else "client_closed"
    assert (call.aborted, [event.outcome for event in front.books.events]) == (True, [outcome])
    assert [(line.status, line.outcome) for line in front.log.lines] == [(499, outcome)]
    front.check()


async def test_what_runs_counts_against_its_key_until_it_is_settled_once(front: Front) -> None:
    wire, call = await start_call(front)
    exchange = front.exchange
    reservation = exchange.reservation
    assert reservation is not None
    events: list[UsageEvent] = []
    front.books.on_event = events.append
    call.answer()
    call.feed(EVENT)
    exchange.count_running()
    wire.abort()
    await ended(front, wire)
    exchange.count_running()
    reservation.settle(10**6, front.now(), None)
    assert len(events) == 1
    front.check()
    usage = front.limits._keys[KEY.id]
    assert usage.used[1] < 10**6


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (b'{"message":"x","type":"InternalServerError","param":null,"code":500}', False),
        (b'{"message":"x","type":"BadRequestError","code":400}', True),
        (b'{"message":"x","type":"server_error","code":"404"}', True),
        (b'{"message":"x","type":"not_supported_error","code":501}', True),
        (b'{"message":"x","type":"invalid_request_error","code":null}', True),
        (b'{"message":"x","type":"exceed_context_size_error"}', True),
        (b'{"message":"x","code":"context_length_exceeded"}', True),
        (b'{"message":"x","code":"rate_limit_exceeded"}', True),
        (b'{"message":"invalid","type":"server_error"}', False),
        (b'{"code":40303}', False),
        (b'"out of memory"', False),
        (b"[1]", False),
        (b"true", False),
    ],
)
def test_an_error_blames_the_request_by_its_status_or_else_its_name(error: bytes, *, refused: bool) -> None:
    assert read_error(error) == EngineError(refused=refused)


@pytest.mark.parametrize("nothing", [b"", b"null", b"false", b'""', b"{}", b"[]", b"0"])
def test_an_empty_error_is_none(nothing: bytes) -> None:
    assert read_error(nothing) is None


def test_501_is_the_request_s_fault() -> None:
    assert [status for status in range(100, 600) if is_machine_failure(status)] == [500, *range(502, 600)]
    assert not any(is_refusal(status) and is_machine_failure(status) for status in range(100, 600))


@given(st.dictionaries(st.binary(max_size=12).map(bytes.lower), st.binary(max_size=30), max_size=8), st.booleans())
def test_an_engines_header_values_cannot_inject_lines(headers: dict[bytes, bytes], stream: bool) -> None:
    fields = forwarded_headers(headers, stream=stream)
    *lines, end = fields.split(b"\r\n")
    assert end == b""
    assert all(b": " in line and b"\r" not in line and b"\n" not in line and b"\0" not in line for line in lines)
    assert lines[0].lower().startswith(b"content-type: ")


def test_headers_together_are_bounded() -> None:
    headers = {b"x-%d" % number: b"y" * 100 for number in range(500)} | {b"content-type": b"z" * 20_000}
    assert len(forwarded_headers(headers, stream=False)) <= MAX_BYTES + 100


async def test_the_line_has_the_status_that_the_client_was_sent(front: Front) -> None:
    front.fleet.clear()
    wire = await front.ask()
    front.exchange.response.start(b"")  # as the first comment of its wait does
    front.fleet.put("s1", "ready")
    front.dispatcher.on_fleet_change("s1")
    await until(lambda: front.calls)
    front.calls[0].answer(429, b"application/json")
    front.calls[0].receiver.on_end()
    await until(lambda: front.log.lines)
    assert [response.status for response in wire.responses] == [200]
    assert [line.status for line in front.log.lines] == [200]
    assert [event.status for event in front.books.events] == [429]
    front.check()
