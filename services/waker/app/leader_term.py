"""One term as the leader: takes the fleet over, then turns events into records, journal entries and calls.

A term ends with its first doubt: a lost lease, a foreign write, or a bus that does not answer. The next one begins with
the records and what the providers report.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from hashlib import blake2b
from typing import Any

import structlog

from services.waker.app.fleet_store import FleetStore, LeadershipLost
from services.waker.app.inbox import Inbox
from services.waker.app.inquiries import Inquiries, describe_defect
from services.waker.app.term_resources import TermResources
from services.waker.core.adopt import PersistedState, adopt
from services.waker.core.events import (
    ActivityReported,
    Called,
    CallKind,
    Command,
    CountRequests,
    DemandReported,
    Effect,
    Event,
    Forget,
    Journal,
    NoticeReceived,
    Observe,
    Probe,
    RecordWritten,
    Remember,
    StartMachine,
    StopMachine,
    TestProvider,
    Tick,
    Write,
)
from services.waker.core.fleet import handle
from services.waker.core.removals import may_run
from services.waker.core.state import Fleet
from services.waker.ports import CallResult, Provider
from shared.bus import subjects
from shared.bus.ports import Stored
from shared.bus.topology import WAKE
from shared.errors import BusError
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.gateway import WakeRequest
from shared.messages.waker import JournalEntry, ProviderCall, Transition
from shared.tasks import cancel_and_wait

log = structlog.get_logger()


class LeaderTerm:
    """Created when the lease is acquired: `begin`, then `step` again and again, and `end`."""

    def __init__(self, resources: TermResources, inbox: Inbox, now: Callable[[], float]) -> None:
        self._resources = resources
        self._bus = resources.bus
        self._spec = resources.spec
        self._inbox = inbox
        self._now = now
        self._store = FleetStore(resources.bus, resources.spec)
        self._inquiries = Inquiries(resources, inbox, now)
        self._applying = asyncio.Lock()
        """Held while one event and everything that it leads to is put on record."""
        self._calls: set[asyncio.Task[None]] = set()
        self._doubt: str | None = None
        """Why a call says that this term is over: its error would keep the term."""
        self.fleet = Fleet(spec=resources.spec, leading_since=now(), machines={})

    async def begin(self) -> None:
        """Take over the fleet.

        Raises:
            BusError: that cannot be done now.
        """
        persisted = await self._store.load(self._now())
        events = await asyncio.gather(*map(self._inquiries.observation_of, self._spec.providers))
        observed = {event.provider: event for event in events}
        closed = self._resources.closed_tiers()
        self.fleet, effects = adopt(self._spec, persisted, observed, self._now(), closed=closed)
        log.info(
            "term_begun",
            fencing=self._resources.lease.token,
            machines=len(self.fleet.machines),
            adopted=len(persisted.records),
        )
        self._log_unconfigured(persisted)
        for written in await self._perform(effects):
            await self._apply(written)
        for model in self._spec.lineups:
            if stored := await self._bus.last(WAKE, subjects.wake_request(model)):
                await self._apply_stored_demand(stored)

    def _log_unconfigured(self, persisted: PersistedState) -> None:
        for name, record in persisted.removed.items():
            if may_run(record):
                log.warning(
                    "running_machine_removed",
                    machine=name,
                    tier=record.tier,
                    state=record.state,
                    action="stop it at its provider, or configure it again",
                )
        if persisted.newer:
            log.warning(
                "configuration_outdated",
                machines=list(persisted.newer),
                action="machines that a newer configuration has are left alone: restart this waker with it",
            )

    async def step(self) -> None:
        """Apply everything that has happened, then the time that has passed. Raises what ends the term."""
        for event in [*self._inbox.drain(), Tick(self._resources.closed_tiers())]:
            await self._apply(event)
            await asyncio.sleep(0)  # the lease is renewed and commands are answered between any two
        self._resources.metrics.observe_fleet(self.fleet, self._now())

    async def issue(self, command: Command) -> None:
        """Apply an operator's command; it is on record when this returns."""
        await self._apply(command)

    async def end(self) -> None:
        """Leave the calls under way to the next leader, which observes before it acts."""
        await cancel_and_wait(self._calls)

    async def wait_for_calls(self) -> None:
        """Return when no call is under way."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def _apply_stored_demand(self, stored: Stored) -> None:
        try:
            request = decode(stored.data, WakeRequest)
        except Unreadable as error:
            log.error("wake_request_unreadable", error=str(error))
            return
        await self._apply(DemandReported(request, self._now() - stored.age_s))

    async def _apply(self, event: Event) -> None:
        async with self._applying:
            events = deque([event])
            while events:
                if self._doubt is not None:
                    raise LeadershipLost(self._doubt)
                if not self._resources.lease.held:
                    raise LeadershipLost("the lease is lost")
                event = events.popleft()
                try:
                    self.fleet, effects = handle(self.fleet, event, self._now())
                except Exception as error:
                    if not isinstance(event, DemandReported | ActivityReported | NoticeReceived):
                        raise
                    self._bus.rejections.record("demand and use", error, traceback=True, kind=type(event).__name__)
                    continue
                events.extend(await self._perform(effects))

    async def _perform(self, effects: list[Effect]) -> list[Event]:
        """Perform the effects in order: nothing is done before it is on record. Written records return as events."""
        written: list[Event] = []
        for effect in effects:
            match effect:
                case Journal(entry):
                    await self._publish(entry)
                case Write(record):
                    written.append(RecordWritten(record, await self._store.write(record)))
                case Remember(memory):
                    await self._store.remember(memory)
                case Forget(machine):
                    await self._store.forget(machine)
                case _:
                    self._spawn(self._work(effect))
        return written

    def _work(self, effect: Effect) -> Coroutine[Any, Any, None]:
        """The work of an effect that takes time; its result arrives as an event."""
        match effect:
            case Observe(provider):
                return self._inquiries.observe(provider)
            case TestProvider(provider):
                return self._inquiries.test(provider)
            case StartMachine(machine, serial, generation):
                start = partial(self._provider(machine).start, machine, generation)
                return self._call(machine, "start", serial, start)
            case StopMachine(machine, serial, force):
                stop = partial(self._provider(machine).stop, machine, force=force)
                return self._call(machine, "stop", serial, stop)
            case Probe():
                return self._inquiries.probe(effect)
            case CountRequests():
                return self._inquiries.count_requests(effect)
            case _:
                raise TypeError(effect)

    def _provider(self, machine: str) -> Provider:
        return self._resources.providers[self.fleet.machines[machine].spec.provider]

    async def _publish(self, entry: JournalEntry) -> None:
        data = encode(entry)
        await self._bus.publish(
            subjects.journal(entry.machine), data, message_id=blake2b(data, digest_size=16).hexdigest()
        )
        self._resources.metrics.count(entry)
        machine = entry.machine
        if isinstance(entry, Transition):
            log.info(
                "machine_transitioned",
                machine=machine,
                from_state=entry.from_state,
                to_state=entry.to_state,
                reason=entry.reason,
            )
        elif isinstance(entry, ProviderCall) and entry.outcome != "accepted":
            log.warning(
                "provider_call_failed", machine=machine, call=entry.call, outcome=entry.outcome, code=entry.code
            )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._on_call_done)

    def _on_call_done(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, BusError):
                log.critical("provider_call_crashed", exc_info=error)
            self._doubt = self._doubt or str(error) or type(error).__name__

    async def _call(self, machine: str, kind: CallKind, serial: int, call: Callable[[], Awaitable[CallResult]]) -> None:
        """Make the call if the server confirms that we still lead."""
        began = self._now()
        try:
            if not await self._resources.lease.verify():
                raise LeadershipLost("the lease is lost")
            async with asyncio.timeout(self._spec.call_timeout_s):
                result = await call()
        except TimeoutError:
            result = CallResult(outcome="unknown", code="timeout")
        except BusError:
            raise
        except Exception as error:
            log.exception("provider_call_failed", machine=machine, call=kind)
            result = CallResult(outcome="unknown", code="internal", reason=describe_defect(error))
        event = Called(
            machine=machine,
            call=kind,
            serial=serial,
            outcome=result.outcome,
            seconds=self._now() - began,
            code=result.code,
            reason=result.reason,
            endpoint=result.endpoint,
            generation=result.generation,
            scope=result.scope,
        )
        self._inbox.put(("call", machine), event)
