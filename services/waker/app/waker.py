"""The service: hears gateways, keeps the lease, and leads term after term while it holds it."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from services.waker.app.command_handler import CommandHandler
from services.waker.app.inbox import Inbox
from services.waker.app.leader_term import LeaderTerm
from services.waker.core.events import ActivityReported, DemandReported
from services.waker.core.fleet_spec import FleetSpec
from services.waker.metrics import Metrics
from services.waker.ports import Prober, Provider
from shared.bus import subjects
from shared.bus.lease import Lease
from shared.bus.ports import Bus, Handle, Received
from shared.config.providers import ProviderName
from shared.errors import BusError
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import Activity, WakeRequest

log = structlog.get_logger()

TICK_SECONDS = 0.25
RETRY_SECONDS = 0.5
"""After a term that ended in doubt."""
STEADY_SECONDS = 5.0
"""Of a term after one that failed, until the fault is over: reading the fleet proves nothing about writing it."""


class Waker:
    """One replica, leading or standing by. `run` for ever; `start` first. `closed`: tiers whose budget gate is."""

    def __init__(
        self,
        *,
        bus: Bus,
        lease: Lease,
        spec: FleetSpec,
        providers: Mapping[ProviderName, Provider],
        prober: Prober,
        metrics: Metrics,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        closed: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._bus = bus
        self._lease = lease
        self._plan = spec
        self._providers = providers
        self._prober = prober
        self._metrics = metrics
        self._closed = closed
        self._clock = _Steady(now, monotonic)
        self._inbox = Inbox()
        self._handles: list[Handle] = []
        self._monotonic = monotonic
        self._failed = False
        self.fault: str | None = "the fleet has not been read yet"

    async def start(self) -> None:
        self._handles = [
            await self._bus.subscribe(subjects.WAKE_REQUESTS, self._on_demand),
            await self._bus.subscribe(subjects.ACTIVITIES, self._on_activity),
        ]

    async def stop(self) -> None:
        for handle in self._handles:
            await handle.stop()

    async def run(self) -> None:
        while True:
            if self._lease.held:
                try:
                    await self._lead()
                except BusError as error:
                    log.warning("not leading for now", reason=str(error))
                    self.fault, self._failed = f"cannot lead: {error}", True
                    await asyncio.sleep(RETRY_SECONDS)
            elif self._bus.connected:
                self.fault, self._failed = None, False  # standing by
            self._inbox.take()
            await asyncio.sleep(TICK_SECONDS)

    async def _lead(self) -> None:
        """Until something is in doubt, which is raised."""
        self._clock.set()
        term = LeaderTerm(
            bus=self._bus,
            lease=self._lease,
            spec=self._plan,
            providers=self._providers,
            prober=self._prober,
            inbox=self._inbox,
            metrics=self._metrics,
            now=self._clock,
            closed=self._closed,
        )
        listening: Handle | None = None
        try:
            await term.begin()
            listening = await CommandHandler(self._bus, self._plan, term.order).listen()
            self._metrics.leading.set(1)
            well_from = self._monotonic() + (STEADY_SECONDS if self._failed else 0.0)
            while True:
                if self.fault is not None and self._monotonic() >= well_from:
                    self.fault, self._failed = None, False
                await self._inbox.wait(TICK_SECONDS)
                await term.step()
        finally:
            self._metrics.leading.set(0)
            if listening is not None:
                await listening.stop()
            await term.end()

    async def _on_demand(self, received: Received) -> None:
        try:
            request = decode(received.data, WakeRequest)
        except Unreadable as error:
            self._bus.rejections.record(subjects.WAKE_REQUESTS, error, subject=received.subject)
            return
        if request.model in self._plan.lineups:
            self._inbox.tell(("demand", request.model, request.gateway), DemandReported(request, self._clock()))

    async def _on_activity(self, received: Received) -> None:
        try:
            activity = decode(received.data, Activity)
        except Unreadable as error:
            self._bus.rejections.record(subjects.ACTIVITIES, error, subject=received.subject)
            return
        self._inbox.tell(("activity", activity.gateway), ActivityReported(activity))


class _Steady:
    """Unix seconds that never jump within a term: deadlines and idle times stand on them."""

    def __init__(self, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._now = now
        self._monotonic = monotonic
        self._offset = 0.0
        self.set()

    def set(self) -> None:
        """Take over the system's time."""
        self._offset = self._now() - self._monotonic()

    def __call__(self) -> float:
        return self._monotonic() + self._offset
