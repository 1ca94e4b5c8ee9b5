"""Tells the waker what is wanted: one level per model, repeated while requests wait, withdrawn when none does."""

import asyncio
from collections.abc import Callable
from itertools import islice

import structlog

from services.gateway.core.hold import Hold
from shared.bus.ports import Bus
from shared.bus.subjects import wake_request
from shared.errors import BusError
from shared.messages.codec import encode
from shared.messages.gateway import WakeRequest

MAX_REQUEST_IDS = 16
"""How many of the requests that caused a wake are named: enough to find them, bounded for the message's size."""
RETRY_SECONDS = 0.5

log = structlog.get_logger()


class Demand:
    """One task, `run`. `changed` after every change of the queue; `ask_once` for a caller that does not wait."""

    def __init__(self, bus: Bus, hold: Hold, gateway: str, repeat: float, now: Callable[[], float]) -> None:
        self._bus = bus
        self._hold = hold
        self._gateway = gateway
        self._repeat = repeat
        self._now = now
        self._due: dict[str, float] = {}
        """Model to the time of its next message; a model without demand is not in it."""
        self._once: dict[str, WakeRequest] = {}
        self._changed = asyncio.Event()
        self._fault = False

    def changed(self, model: str) -> None:
        if self._hold.is_wanted(model) != (model in self._due):
            self._due[model] = self._now()
            self._changed.set()

    def ask_once(self, model: str, request_id: str, key_id: str, deadline: float) -> None:
        self._once[model] = WakeRequest(
            model=model,
            gateway=self._gateway,
            waiting=1,
            deadline=deadline,
            sent_at=self._now(),
            request_ids=(request_id,),
            key_id=key_id,
            seconds_left=deadline - self._now(),
        )
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            pause = await self._publish_due()
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _publish_due(self) -> float:
        """Returns how long nothing is due, in seconds."""
        try:
            for model, request in list(self._once.items()):
                if not self._hold.is_wanted(model):
                    await self._bus.publish(wake_request(model), encode(request))
                self._once.pop(model, None)
            for model, due in list(self._due.items()):
                if due <= self._now():
                    await self._publish(model)
        except BusError as error:
            if not self._fault:  # once, not twice a second until the bus is back
                log.warning("wake requests wait for the bus", error=str(error))
            self._fault = True
            return RETRY_SECONDS
        self._fault = False
        return max(0.0, min([due - self._now() for due in self._due.values()], default=self._repeat))

    async def _publish(self, model: str) -> None:
        waiting = self._hold.waiting(model)
        first = next(iter(waiting), None)
        now = self._now()
        deadline = max((t.deadline for t in waiting), default=now)
        request = WakeRequest(
            model=model,
            gateway=self._gateway,
            waiting=len(waiting),
            deadline=deadline,
            sent_at=now,
            request_ids=tuple(ticket.request_id for ticket in islice(waiting, MAX_REQUEST_IDS)),
            key_id=first.key_id if first else "",
            seconds_left=deadline - now,
        )
        if first:
            self._due[model] = now + self._repeat  # before the telling: who leaves meanwhile makes it due at once
        try:
            await self._bus.publish(wake_request(model), encode(request))
        except BusError:
            self._due[model] = now
            raise
        if not first and not self._hold.is_wanted(model):
            del self._due[model]
