"""How many connections there may be, which makes room for another, and the clock that they go by."""

import asyncio
import resource
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.adapters.http import connections as module
from services.gateway.adapters.http.connections import MAX_STEP_SECONDS, OWN_FILES
from services.gateway.core import errors
from tests.unit.gateway.front import CONFIG, Front
from tests.unit.gateway.wire import Wire, post, turns, until


@pytest.fixture
async def few(front: Front) -> Front:
    """Room for three connections, of which two may be of one address."""
    front.connections.max_total, front.connections.max_per_address = 3, 2
    return front


async def busy(front: Front, address: str) -> Wire:
    wire = front.connect(address)
    wire.send(post())
    await turns(4)
    return wire


async def test_the_one_that_has_been_idle_the_longest_makes_room(few: Front) -> None:
    first, second = few.connect("a"), few.connect("b")
    first.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: first.responses)
    await turns()
    third = few.connect("c")
    few.connect("d")
    assert [wire.aborted for wire in few.wires] == [False, True, False, False]
    assert len(few.connections) == 3
    few.connect("e")
    assert (first.aborted, third.aborted) == (True, False)
    assert second.aborted


async def test_one_with_a_request_is_never_closed_for_room(few: Front) -> None:
    wires = [await busy(few, address) for address in "abc"]
    refused = few.connect("d")
    assert (refused.aborted, [wire.aborted for wire in wires]) == (True, [False] * 3)
    await turns()
    wires[0].abort()
    await turns()
    assert not few.connect("d").aborted
    assert len(few.connections) == 3


async def test_an_address_has_a_bound_of_its_own(few: Front) -> None:
    other = few.connect("b")
    wires = [await busy(few, "a"), await busy(few, "a")]
    assert few.connect("a").aborted, "although another address has an idle one"
    assert not other.aborted
    wires[0].abort()
    await turns()
    idle = few.connect("a")
    few.connect("a")
    assert (idle.aborted, other.aborted) == (True, False)


async def test_what_was_refused_or_closed_is_counted_no_more(few: Front) -> None:
    for _ in range(3):
        wires = [few.connect(address) for address in "aaabbbccc"]
        await turns()
        for wire in wires:
            wire.abort()
        await turns()
    assert (len(few.connections), few.connections._idle, few.connections._by_address) == (0, {}, {})


@pytest.mark.parametrize(
    ("bounds", "max_total", "per_address"),
    [
        ("max_connections = 7", 7, 3),
        ("max_connections = 1", 1, 1),
        ("max_connections = 7\nmax_connections_per_address = 5", 7, 5),
    ],
)
def test_an_address_may_have_half_of_the_connections_by_default(bounds: str, max_total: int, per_address: int) -> None:
    connections = Front(CONFIG.replace("[gateway]", f"[gateway]\n{bounds}")).connections
    assert (connections.max_total, connections.max_per_address) == (max_total, per_address)


@pytest.mark.parametrize(
    ("soft", "hard", "max_total", "raised"),
    [
        (1024, 1024, (1024 - OWN_FILES) // 2, None),
        (256, 1200, (1200 - OWN_FILES) // 2, 1200),
        (256, 10**6, 5000, 2 * 5000 + OWN_FILES),
        (10**6, 10**6, (10**6 - OWN_FILES) // 2, None),
        (10, 10, 1, None),
        (256, resource.RLIM_INFINITY, 5000, 2 * 5000 + OWN_FILES),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 5000, None),
    ],
)
def test_connections_are_bounded_by_the_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, max_total: int, raised: int | None
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, both: limits.append(both))
    assert module._max_clients_by_files(5000) == max_total
    assert [actual for actual, _ in limits] == ([] if raised is None else [raised])
    assert all(of_system == hard for _, of_system in limits)


@given(st.lists(st.floats(0.0, 1000.0), max_size=20))
def test_the_clock_advances_by_a_second_per_tick_at_most(steps: list[float]) -> None:
    front = Front()
    for step in steps:
        before = front.connections.now
        front.monotonic += step
        front.connections.tick()
        assert front.connections.now - before == pytest.approx(min(step, MAX_STEP_SECONDS), abs=1e-6)


def seconds_of_ticks(front: Front, seconds: float, step: float = 0.25) -> None:
    for _ in range(round(seconds / step)):
        front.monotonic += step
        front.connections.tick()


async def test_no_deadline_passes_during_a_stall(front: Front) -> None:
    idle, begun, body = front.connect(), front.connect(), front.connect()
    begun.send(b"POST /v1")
    body.send(post()[:-1])
    await turns()
    seconds_of_ticks(front, 8)
    front.monotonic += 1000.0
    front.connections.tick()
    await turns()
    assert [bytes(wire.written) for wire in (idle, begun, body)] == [b"", b"", b""]
    assert not any(wire.closing for wire in (idle, begun, body))
    seconds_of_ticks(front, 1.5)
    await turns()
    assert [response.status for response in begun.responses] == [408]
    assert (idle.closing, bytes(body.written)) == (False, b"")


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (b"", "keepalive_timeout"),
        (b"\r\n", "keepalive_timeout"),
        (b"POST", "head_timeout"),
        (post()[:-1], "body_timeout"),
    ],
)
async def test_each_state_has_its_deadline(front: Front, sent: bytes, seconds: str) -> None:
    wire = front.connect()
    if sent:
        wire.send(sent)
    await turns()
    limit: float = getattr(front.settings, seconds)
    seconds_of_ticks(front, limit - 0.5)
    await turns()
    assert (wire.closing, bytes(wire.written)) == (False, b"")
    seconds_of_ticks(front, 1)
    await turns()
    if sent.strip():
        assert [response.status for response in wire.responses] == [408]
        assert wire.has_eof
    else:
        assert wire.aborted


async def test_a_drip_prolongs_no_deadline(front: Front) -> None:
    head, body = front.connect(), front.connect()
    head.send(b"GET /")
    body.send(post(b"x" * 200)[:-200])
    for _ in range(31):
        seconds_of_ticks(front, 1)
        head.send(b"x" if not head.written else b"")
        body.send(b"x")
        await turns(3)
    assert [wire.responses[0].status for wire in (head, body)] == [408, 408]


def _idle(front: Front) -> Wire:
    return front.connect()


def _begun(front: Front) -> Wire:
    wire = front.connect()
    wire.send(b"GET /health HTTP/1.1\r\n")
    return wire


@pytest.mark.parametrize(("make", "closes"), [(_idle, True), (_begun, False)])
async def test_the_drain_closes_what_is_idle(front: Front, make: Callable[[Front], Wire], *, closes: bool) -> None:
    wire, at_work = make(front), await busy(front, "x")
    front.connections.close_idle()
    await turns()
    assert (wire.closing, at_work.closing) == (closes, False)


async def test_the_last_bytes_have_so_much_time(front: Front) -> None:
    wire = await busy(front, "x")
    await front.connections.close(0.0, 60.0)
    assert wire.aborted
    await turns()
    assert len(front.connections) == 0
    await front.connections.close(60.0, 60.0)


async def test_a_client_that_still_reads_has_what_is_left_of_the_grace(front: Front) -> None:
    reading, late = await busy(front, "x"), await busy(front, "y")
    reading.unsent = late.unsent = 1
    closing = asyncio.create_task(front.connections.close(0.0, 60.0))
    await asyncio.sleep(0.05)
    assert (reading.aborted, late.aborted, closing.done()) == (False, False, False)
    reading.unsent = 0
    reading.close()
    await turns()
    assert not closing.done()
    late.unsent = 0
    late.close()
    await closing
    stuck = await busy(front, "z")
    stuck.unsent = 1
    await front.connections.close(0.0, 0.0)
    assert (stuck.aborted, reading.aborted, late.aborted) == (True, False, False)


async def test_in_the_drain_a_connection_is_closed_behind_its_response(front: Front) -> None:
    wire = await busy(front, "x")
    front.connections.close_idle()
    await turns()
    assert not wire.closing
    for exchange in list(front.lifecycle.exchanges):
        exchange.interrupt(errors.leaving())
    await until(lambda: wire.closing)
    assert [response.status for response in wire.responses] == [503]
    assert not wire.aborted
