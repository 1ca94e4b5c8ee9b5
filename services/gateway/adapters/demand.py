"""Tells the waker what is wanted: one level per model, repeated while requests wait, withdrawn when none does."""

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice

import structlog

from services.gateway.core.scheduler import RequestScheduler, Ticket
from shared.bus.ports import Bus
from shared.bus.subjects import wake_request
from shared.errors import BusError
from shared.messages.codec import encode
from shared.messages.gateway import WakeCause, WakeRequest

MAX_REQUEST_IDS = 16
"""How many of the requests that caused a wake are named: enough to find them, bounded for the message's size."""
MAX_CAUSES = 64
"""Keys named in one message, some 100 bytes each."""
RETRY_SECONDS = 0.5

log = structlog.get_logger()


class Demand:
    """One task, `run`. `changed` after every change of the queue; `ask_once` for a caller that does not wait."""

    def __init__(
        self, bus: Bus, scheduler: RequestScheduler, gateway: str, repeat: float, now: Callable[[], float]
    ) -> None:
        self._bus = bus
        self._scheduler = scheduler
        self._gateway = gateway
        self._repeat = repeat
        self._now = now
        self._due: dict[str, float] = {}
        """Model to the time of its next message; a model without demand is not in it."""
        self._once: dict[str, WakeRequest] = {}
        self._changed = asyncio.Event()
        self._fault = False

    def changed(self, model: str) -> None:
        if self._scheduler.has_demand(model) != (model in self._due):
            self._due[model] = self._now()
            self._changed.set()

    def ask_once(self, model: str, request_id: str, cause: WakeCause, deadline: float) -> None:
        """With those that asked so since the last message."""
        before, now = self._once.get(model), self._now()
        others = {other.key_id: other for other in before.causes} if before else {}
        if len(others) < MAX_CAUSES:
            others.setdefault(cause.key_id, cause)
        deadline = max(deadline, before.deadline) if before else deadline
        self._once[model] = WakeRequest(
            model=model,
            gateway=self._gateway,
            waiting=before.waiting + 1 if before else 1,
            deadline=deadline,
            sent_at=now,
            request_ids=(*(before.request_ids if before else ()), request_id)[:MAX_REQUEST_IDS],
            key_id=next(iter(others)),
            seconds_left=deadline - now,
            causes=tuple(others.values()),
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
                if not self._scheduler.has_demand(model):
                    await self._bus.publish(wake_request(model), encode(request))
                if self._once.get(model) is request:  # else somebody asked meanwhile
                    del self._once[model]
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
        waiting = [ticket for ticket in self._scheduler.waiting(model) if ticket.may_wake]
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
            causes=_causes(waiting),
        )
        if first:
            self._due[model] = now + self._repeat  # before the telling: who leaves meanwhile makes it due at once
        try:
            await self._bus.publish(wake_request(model), encode(request))
        except BusError:
            self._due[model] = now
            raise
        if not first and not self._scheduler.has_demand(model):
            del self._due[model]


def _causes(waiting: Iterable[Ticket]) -> tuple[WakeCause, ...]:
    """The keys that wait, each once."""
    causes: dict[str, WakeCause] = {}
    for ticket in waiting:
        if ticket.cause is not None and ticket.key_id not in causes:
            causes[ticket.key_id] = ticket.cause
            if len(causes) == MAX_CAUSES:
                break
    return tuple(causes.values())
