"""Publishes wake requests: one level per model, repeated while requests wait, withdrawn when none do."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import structlog

from services.gateway.core.scheduler import RequestScheduler
from shared.bus.ports import Bus
from shared.bus.subjects import wake_request
from shared.errors import BusError
from shared.messages.codec import encode
from shared.messages.gateway import WakeCause, WakeRequest

MAX_REQUEST_IDS = 16
"""Ids of requests that caused a wake in one message: enough to trace it, bounded for the message's size."""
MAX_CAUSES = 64
"""Keys in one message, about 100 bytes each."""
RETRY_SECONDS = 0.5

log = structlog.get_logger()


@dataclass(slots=True)
class WakeDemand:
    """Runs one task, `run`. Call `changed` after each change of a queue, `request_once` for a caller that does not
    wait."""

    bus: Bus
    scheduler: RequestScheduler
    gateway: str
    repeat_s: float
    now: Callable[[], float]
    _due: dict[str, float] = field(default_factory=dict)
    """By model, the time of its next message; a model without demand has no entry."""
    _once: dict[str, WakeRequest] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _has_fault: bool = False

    def changed(self, model: str) -> None:
        if self.scheduler.has_demand(model) != (model in self._due):
            self._due[model] = self.now()
            self._changed.set()

    def request_once(self, model: str, request_id: str, cause: WakeCause, deadline: float) -> None:
        """Add a wake for a caller that does not wait to the model's next message."""
        before = self._once.get(model) or self._request(model, 0, 0.0, (), ())
        self._once[model] = self._request(
            model,
            before.waiting + 1,
            max(deadline, before.deadline),
            (*before.request_ids, request_id),
            (*before.causes, cause),
        )
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            pause = await self._publish_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _publish_due(self) -> float:
        """Publish what is due; return the seconds until something is due again."""
        try:
            for model, request in list(self._once.items()):
                if not self.scheduler.has_demand(model):
                    await self.bus.publish(wake_request(model), encode(request))
                if self._once.get(model) is request:  # otherwise another request came meanwhile
                    del self._once[model]
            for model, due in list(self._due.items()):
                if due <= self.now():
                    await self._publish_level(model)
        except BusError as error:
            if not self._has_fault:  # once, not twice a second until the bus is back
                log.warning("wake_request_delayed", error=str(error))
            self._has_fault = True
            return RETRY_SECONDS
        self._has_fault = False
        return max(0.0, min([due - self.now() for due in self._due.values()], default=self.repeat_s))

    async def _publish_level(self, model: str) -> None:
        waiting, now = [ticket for ticket in self.scheduler.waiting(model) if ticket.may_wake], self.now()
        request = self._request(
            model,
            len(waiting),
            max((ticket.deadline for ticket in waiting), default=now),
            (ticket.request_id for ticket in waiting),
            (ticket.cause for ticket in waiting if ticket.cause is not None),
        )
        if waiting:
            self._due[model] = (
                now + self.repeat_s
            )  # before the await, so that a queue that empties meanwhile is due at once
        try:
            await self.bus.publish(wake_request(model), encode(request))
        except BusError:
            self._due[model] = now
            raise
        if not waiting and not self.scheduler.has_demand(model):
            del self._due[model]

    def _request(
        self, model: str, waiting: int, deadline: float, request_ids: Iterable[str], causes: Iterable[WakeCause]
    ) -> WakeRequest:
        """Build the message, with the first cause of each key."""
        now, by_key = self.now(), dict[str, WakeCause]()
        for cause in causes:
            if len(by_key) < MAX_CAUSES:
                by_key.setdefault(cause.key_id, cause)
        return WakeRequest(
            model=model,
            gateway=self.gateway,
            waiting=waiting,
            deadline=deadline,
            sent_at=now,
            request_ids=tuple(islice(request_ids, MAX_REQUEST_IDS)),
            key_id=next(iter(by_key), ""),
            seconds_left=deadline - now,
            causes=tuple(by_key.values()),
        )
