"""A held request and its place: whenever its client leaves, no place is lost and none is booked twice."""

import asyncio
import math
from collections import Counter
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.app.dispatcher import Dispatcher
from services.gateway.app.held_request import HeldRequest
from services.gateway.core.scheduler import RequestScheduler, Ticket
from shared.messages.waker import MachineRecord
from tests.unit.gateway.test_scheduler import CONFIG, MODEL, ROOM, record

STEPS = st.lists(st.sampled_from(["hold", "hold", "cancel", "release", "wake", "sleep", "loop"]), max_size=40)


class Front:
    """Requests that wait, each in a task of its own, and the places that they got."""

    def __init__(self) -> None:
        self.fleet: dict[str, MachineRecord] = {}
        self.scheduler = RequestScheduler(CONFIG, self.fleet)
        self.tasks: list[asyncio.Task[None]] = []
        self.places: list[str] = []

    def release(self, machine: str) -> None:
        """As the dispatcher does it."""
        self.scheduler.release(machine, 0.0)
        self.dispatch()

    def dispatch(self) -> None:
        self.scheduler.dispatch(0.0, 64)

    async def hold(self) -> None:
        held = HeldRequest(
            self.scheduler, cast("Dispatcher", self), MODEL,
            is_capped=True, next_comment=math.inf, heartbeat=1.0, comment=None, now=lambda: 0.0,
        )  # fmt: skip
        ticket = Ticket("m", "k", "r", 1e9, held.on_granted, held.on_refused)
        self.scheduler.enqueue(ticket)
        try:
            machine = await held.wait(ticket, 1.0)
        finally:
            self.scheduler.leave(ticket)
        self.places.append(machine.machine)

    async def step(self, step: str, data: st.DataObject) -> None:
        if step == "hold" and self.scheduler.total_waiting < 4:
            self.tasks.append(asyncio.create_task(self.hold()))
            await asyncio.sleep(0)
        elif step == "cancel" and self.tasks:
            data.draw(st.sampled_from(self.tasks)).cancel()
        elif step == "release" and self.places:
            self.release(self.places.pop())
        elif step == "wake":
            self.fleet.update({machine: record(machine, "ready") for machine in ROOM})
            self.dispatch()
        elif step == "sleep":
            self.fleet.clear()
        elif step == "loop":
            await asyncio.sleep(0)

    def check(self) -> None:
        assert Counter(self.places) == {m: n for m in ROOM if (n := self.scheduler.in_flight(m))}
        assert self.scheduler.total_waiting == sum(not task.done() for task in self.tasks)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.data())
def test_no_place_is_lost_or_doubled_whenever_clients_leave(steps: list[str], data: st.DataObject) -> None:
    async def run() -> None:
        front = Front()
        for step in steps:
            await front.step(step, data)
        for _ in range(5):
            await asyncio.sleep(0)
        front.check()
        for task in front.tasks:
            task.cancel()
        await asyncio.gather(*front.tasks, return_exceptions=True)
        await asyncio.sleep(0)
        front.check()

    asyncio.run(run())
