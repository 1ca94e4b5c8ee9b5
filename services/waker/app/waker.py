"""The service: listens to gateways, keeps the lease, and leads term after term while it holds it."""

import asyncio
from collections.abc import Callable

import structlog

from services.waker.app.command_handler import CommandHandler
from services.waker.app.inbox import MOST_EVENTS, Inbox
from services.waker.app.leader_term import LeaderTerm
from services.waker.app.term_resources import TermResources
from services.waker.core import notices
from services.waker.core.events import ActivityReported, DemandReported, NoticeReceived
from shared.bus import subjects
from shared.bus.ports import Handle, Received
from shared.bus.topology import FLEET
from shared.bus.view import View
from shared.errors import BusError
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import Activity, WakeRequest
from shared.messages.machine import MachineNotice
from shared.messages.waker import MachineRecord

log = structlog.get_logger()

TICK_S = 0.25
RETRY_S = 0.5
"""After a term that ended in doubt."""
STEADY_S = 5.0
"""How long a term after a failed one must last before the fault is over: reading the fleet does not prove that it can
be written."""


class Waker:
    """One replica, leading or standing by. Call `start`, then `run`, which does not return."""

    def __init__(self, resources: TermResources, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._resources = resources
        resources.metrics.show_spec(resources.spec)
        self._reloaded: list[TermResources] = []
        """The next term uses the last of these."""
        self._bus = resources.bus
        self._clock = SteadyClock(now, monotonic)
        self._now = now
        self._monotonic = monotonic
        self._inbox = Inbox()
        self._handles: list[Handle] = []
        self._records: View[MachineRecord] = View(FLEET, MachineRecord, lambda _machine: self._show_records())
        """For the metrics alone: the leader knows the fleet, and a standby shows it too."""
        self._has_failed = False
        self.fault: str | None = "the fleet has not been read yet"

    async def start(self) -> None:
        self._handles = [
            await self._bus.subscribe(subjects.WAKE_REQUESTS, self._on_demand),
            await self._bus.subscribe(subjects.ACTIVITIES, self._on_activity),
            await self._bus.subscribe(subjects.MACHINE_NOTICES, self._on_notice),
        ]
        await self._records.start(self._bus)

    async def stop(self) -> None:
        for handle in (*self._handles, self._records):
            await handle.stop()
        for resources in (self._resources, *self._reloaded):
            await resources.close()

    def reload(self, resources: TermResources) -> None:
        """Go on with another fleet, as a new leader would: the next term adopts what the present one leaves.

        The present term ends at its next step. The lease stays.
        """
        self._reloaded.append(resources)

    async def run(self) -> None:
        """Lead whenever this replica holds the lease."""
        while True:
            await self._take_reloaded()
            if self._resources.lease.held:
                try:
                    await self._lead()
                except BusError as error:
                    log.warning("term_ended", reason=str(error))
                    self.fault, self._has_failed = f"cannot lead: {error}", True
                    await asyncio.sleep(RETRY_S)
            elif self._bus.connected:
                self.fault, self._has_failed = None, False  # standing by
            self._inbox.drain()
            await asyncio.sleep(TICK_S)

    async def _lead(self) -> None:
        """Lead until something is in doubt, and raise that, or until another configuration is to be used."""
        self._clock.adjust()
        term = LeaderTerm(self._resources, self._inbox, self._clock)
        commands: Handle | None = None
        metrics = self._resources.metrics
        try:
            await term.begin()
            commands = await CommandHandler(self._bus, self._resources.spec, term.issue).listen()
            metrics.leading.set(1)
            steady_at = self._monotonic() + (STEADY_S if self._has_failed else 0.0)
            while True:
                if self.fault is not None and self._monotonic() >= steady_at:
                    self.fault, self._has_failed = None, False
                await self._inbox.wait(TICK_S)
                if self._reloaded:
                    return
                await term.step()
        finally:
            metrics.stand_by()
            if commands is not None:
                await commands.stop()
            await term.end()

    async def _take_reloaded(self) -> None:
        while self._reloaded:
            old, self._resources = self._resources, self._reloaded.pop(0)
            await old.close()
            self._resources.metrics.show_spec(self._resources.spec)
            self._inbox.drain()  # results of the old fleet's calls

    def _show_records(self) -> None:
        self._resources.metrics.show_records(self._records.values())

    async def _on_demand(self, received: Received) -> None:
        try:
            request = decode(received.data, WakeRequest)
        except Unreadable as error:
            self._bus.rejections.record(subjects.WAKE_REQUESTS, error, subject=received.subject)
            return
        if request.model in self._resources.spec.lineups:
            key = ("demand", request.model, request.gateway)
            if self._inbox.has_room(key):
                self._inbox.put(key, DemandReported(request, self._clock()))
            else:
                flood = Unreadable(f"more than {MOST_EVENTS} gateways and models at a time")
                self._bus.rejections.record(subjects.WAKE_REQUESTS, flood, subject=received.subject)

    async def _on_activity(self, received: Received) -> None:
        try:
            activity = decode(received.data, Activity)
            subjects.check_sender(received.subject, activity.gateway)
        except Unreadable as error:
            self._bus.rejections.record(subjects.ACTIVITIES, error, subject=received.subject)
            return
        self._inbox.put(("activity", activity.gateway), ActivityReported(activity))

    async def _on_notice(self, received: Received) -> None:
        try:
            notice = decode(received.data, MachineNotice)
            machine = self._resources.spec.machines.get(notice.machine)
            if machine is None or not machine.sleeps:
                raise Unreadable("no machine of this name is configured, or it is of provider static")
            if received.subject != subjects.machine_notice(notice.machine):
                raise Unreadable(f"{received.subject[: subjects.SHOWN]} is not the subject of this machine")
            now = self._now()  # the time of day, which a steady clock loses when the system's is set
            if (fault := notices.fault_of(notice, now)) is not None:
                raise Unreadable(fault)
        except Unreadable as error:
            self._bus.rejections.record(subjects.MACHINE_NOTICES, error, subject=received.subject)
            return
        self._inbox.put(("notice", notice.machine), NoticeReceived(notice, self._clock() - now))


class SteadyClock:
    """Unix seconds that never jump within a term, since deadlines and idle times rest on them."""

    def __init__(self, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._now = now
        self._monotonic = monotonic
        self._offset_s = 0.0
        self.adjust()

    def adjust(self) -> None:
        """Take over the system's time."""
        self._offset_s = self._now() - self._monotonic()

    def __call__(self) -> float:
        return self._monotonic() + self._offset_s
