"""The requests under way, and how they end when the gateway does."""

import asyncio
from types import SimpleNamespace
from typing import cast

from services.gateway.adapters.http.client_response import ClientResponse
from services.gateway.adapters.http.exchange import Exchange
from services.gateway.adapters.http.relay import Relay
from services.gateway.app.lifecycle import Lifecycle
from services.gateway.core import errors
from services.gateway.core.buffer_memory import BufferedBytes, BufferMemory
from services.gateway.core.usage_record import UsageRecord
from tests.unit.gateway.wire import turns, until


class Request:
    """One that waits for an hour."""

    def __init__(self, lifecycle: Lifecycle, *, at_engine: bool = False) -> None:
        self.lifecycle = lifecycle
        self.codes: list[str] = []
        self.goes = asyncio.Event()
        self.exchange: Exchange
        self._at_engine = at_engine
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        response = cast("ClientResponse", SimpleNamespace())
        self.exchange = Exchange(response, UsageRecord("r", "k", 0.0), BufferedBytes(BufferMemory(1, 1)))
        if self._at_engine:
            self.exchange.relay = cast("Relay", SimpleNamespace())
        self.lifecycle.exchanges.add(self.exchange)
        try:
            await self.goes.wait()
        except asyncio.CancelledError:
            error = self.exchange.take_interruption()
            if error is None:
                self.codes.append("left")
                raise
            self.codes.append(error.code)
        finally:
            self.lifecycle.end(self.exchange)
        await asyncio.sleep(0)
        assert self.task.cancelling() == 0
        self.codes.append("went on")


async def test_drain_keeps_held_requests_within_the_grace() -> None:
    lifecycle = Lifecycle()
    held, served = Request(lifecycle), Request(lifecycle, at_engine=True)
    await turns(2)
    drain = asyncio.create_task(lifecycle.drain(3600.0))
    await turns()
    assert lifecycle.is_closed
    served.goes.set()
    await turns()
    assert (held.codes, drain.done()) == ([], False)
    held.goes.set()
    await until(drain.done)
    assert [held.codes, served.codes] == [["went on"]] * 2


async def test_drain_without_a_parent_rejects_held_requests_at_once_and_waits_for_the_others() -> None:
    lifecycle = Lifecycle()
    waiting, served, late = Request(lifecycle), Request(lifecycle, at_engine=True), Request(lifecycle, at_engine=True)
    await turns(2)
    drain = asyncio.create_task(lifecycle.drain(3600.0, keep_held=False))
    await turns()
    assert lifecycle.is_leaving
    assert ([waiting.codes, served.codes, late.codes], drain.done()) == (
        [["waking", "went on"], [], []],
        False,
    )
    served.goes.set()
    await turns()
    assert not drain.done()
    late.goes.set()
    await until(drain.done)
    assert [served.codes, late.codes] == [["went on"]] * 2


async def test_drain_interrupts_all_requests_when_the_grace_ends() -> None:
    lifecycle = Lifecycle()
    requests = [Request(lifecycle, at_engine=bool(number)) for number in range(3)]
    await turns(2)
    await lifecycle.drain(0.0)
    assert not lifecycle.exchanges
    await turns()
    assert [request.codes for request in requests] == [["waking", "went on"]] * 3


async def test_drain_without_requests_returns_at_once() -> None:
    await Lifecycle().drain(3600.0)


async def test_an_interruption_counts_once_and_a_disconnect_is_none() -> None:
    lifecycle = Lifecycle()
    interrupted, left = Request(lifecycle), Request(lifecycle)
    await turns(2)
    interrupted.exchange.interrupt(errors.leaving())
    interrupted.exchange.interrupt(errors.internal_error())
    left.task.cancel()
    await turns()
    assert (interrupted.codes, left.codes) == (["waking", "went on"], ["left"])
    assert (interrupted.task.cancelled(), left.task.cancelled()) == (False, True)
