"""A request whose machine fails while the places of the next one are leased to other gateways."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import cast

import pytest
from structlog.testing import capture_logs

from services.gateway.app.admission import UNSETTLED_RETRIES
from services.gateway.core.machine_quota import MachineQuota
from tests.kit.waiting import until as kit_until
from tests.unit.gateway.front import Call, Front
from tests.unit.gateway.wire import turns, until

JSON = b"application/json"
ANSWER = b'{"object":"chat.completion","choices":[]}'


@dataclass
class Leases:
    """What this gateway may use of each machine, and how often it has told the others that it is short."""

    rooms: dict[str, int] = field(default_factory=lambda: {"s1": 1, "s2": 0})
    notified: int = 0

    def room(self, machine: str, limit: int, now: float) -> int:
        del limit, now
        return self.rooms[machine]

    def notify(self) -> None:
        self.notified += 1

    def on_release(self, machine: str) -> None:
        """Nobody waits."""


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
async def front(leases: Leases) -> AsyncIterator[Front]:
    front = await Front(quota=cast("MachineQuota", leases)).start()
    front.fleet.put("s1", "ready")
    front.fleet.put("s2", "ready")
    with capture_logs():
        yield front
    await front.stop()


async def patiently(condition: Callable[[], bool]) -> None:
    """Return once it is so, after the 20 ms between two tries to get a place."""
    await kit_until(lambda: asyncio.sleep(0, condition()), bool)


def fail(call: Call, how: str) -> None:
    if how == "500":
        call.answer(500, JSON)
        call.feed(b'{"error":"out of memory"}')
    else:
        call.receiver.on_lost("reset", unreachable=False)


@pytest.mark.parametrize("how", ["500", "lost"])
async def test_it_moves_once_the_place_is_leased(front: Front, leases: Leases, how: str) -> None:
    wire = await front.ask(b'{"model":"m"}')
    await until(lambda: bool(front.calls))
    fail(front.calls[0], how)
    assert (len(front.calls), front.calls[0].aborted) == (1, True)
    assert front.scheduler.machine_usage(front.time)["machine/s2"].wanted[2] == 1, "the others learn that it is short"
    leases.rooms["s2"] = 1
    await patiently(lambda: len(front.calls) > 1)
    assert front.scheduler.total_in_flight == 1
    front.calls[1].answer(content_type=JSON)
    front.calls[1].feed(ANSWER)
    front.calls[1].receiver.on_end()
    await until(lambda: not front.lifecycle.exchanges)
    assert [(response.status, response.body) for response in wire.responses] == [(200, ANSWER)]
    assert [(event.moved_from, event.machine, event.status) for event in front.books.events] == [("s1", "s2", 200)]
    front.check()


@pytest.mark.parametrize("how", ["500", "lost"])
async def test_it_ends_with_502_if_no_place_is_leased_in_time(front: Front, leases: Leases, how: str) -> None:
    wire = await front.ask(b'{"model":"m"}')
    await until(lambda: bool(front.calls))
    before = leases.notified
    fail(front.calls[0], how)
    await patiently(lambda: not front.lifecycle.exchanges)
    assert [response.status for response in wire.responses] == [502]
    assert len(front.calls) == 1
    assert leases.notified - before >= UNSETTLED_RETRIES + 1
    assert [(event.machine, event.outcome) for event in front.books.events] == [("s1", "failed")]
    front.check()


async def test_it_waits_for_no_machine_that_is_full(front: Front, leases: Leases) -> None:
    leases.rooms = {"s1": 2, "s2": 0}
    front.fleet.put("s2", "asleep")
    wire = await front.ask(b'{"model":"m"}')
    await until(lambda: bool(front.calls))
    fail(front.calls[0], "500")
    front.calls[0].receiver.on_end()
    await until(lambda: not front.lifecycle.exchanges)
    assert [(response.status, response.body) for response in wire.responses] == [(500, b'{"error":"out of memory"}')]
    front.check()


async def test_a_client_that_leaves_while_it_waits_ends_it(front: Front, leases: Leases) -> None:
    wire = await front.ask(b'{"model":"m"}')
    await until(lambda: bool(front.calls))
    fail(front.calls[0], "lost")
    wire.abort()
    await until(lambda: not front.lifecycle.exchanges)
    leases.rooms["s2"] = 1
    notified = leases.notified
    await turns()
    assert (len(front.calls), front.scheduler.total_in_flight, leases.notified) == (1, 0, notified)
    front.check()
