"""One term as the leader: takes the fleet over, then turns events into records, journal entries and calls.

A term ends with its first doubt, be it a lost lease, somebody else's write or a bus that does not answer; the next
one begins from what is on record and what the providers see.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from hashlib import blake2b
from typing import Any

import structlog

from services.waker.app.fleet_store import FleetStore, LeadershipLost
from services.waker.app.inbox import Inbox
from services.waker.core.adopt import adopt
from services.waker.core.events import (
    ActivityReported,
    Called,
    CallKind,
    Command,
    DemandReported,
    Effect,
    Event,
    Journal,
    Observe,
    Observed,
    Probe,
    Probed,
    RecordWritten,
    Remember,
    StartMachine,
    StopMachine,
    Tested,
    TestProvider,
    Tick,
    Write,
)
from services.waker.core.fleet import handle
from services.waker.core.fleet_spec import FleetSpec
from services.waker.core.state import Fleet
from services.waker.metrics import Metrics
from services.waker.ports import CallResult, Prober, ProbeResult, Provider, ProviderUnavailable
from shared.bus import subjects
from shared.bus.lease import Lease
from shared.bus.ports import Bus, Stored
from shared.bus.topology import WAKE
from shared.config.providers import ProviderName
from shared.errors import BusError
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.gateway import WakeRequest
from shared.messages.waker import JournalEntry, ProviderCall, Transition
from shared.tasks import cancel_and_wait

log = structlog.get_logger()


class LeaderTerm:
    """Made when the lease was taken; `begin`, then `step` again and again, and `cancel_and_wait`."""

    def __init__(
        self,
        *,
        bus: Bus,
        lease: Lease,
        spec: FleetSpec,
        providers: Mapping[ProviderName, Provider],
        prober: Prober,
        inbox: Inbox,
        metrics: Metrics,
        now: Callable[[], float],
        closed: Callable[[], frozenset[str]],
    ) -> None:
        self._bus = bus
        self._lease = lease
        self._plan = spec
        self._providers = providers
        self._prober = prober
        self._inbox = inbox
        self._metrics = metrics
        self._now = now
        self._closed = closed
        self._records = FleetStore(bus, spec)
        self._turn = asyncio.Lock()
        """One event and all that it leads to on record, then the next."""
        self._calls: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self.fleet = Fleet(spec=spec, leading_since=now(), machines={})

    async def begin(self) -> None:
        """Take over what there is. `BusError` where that cannot be done now."""
        left = await self._records.left()
        snapshot = await asyncio.gather(*map(self._looked, self._plan.providers))
        self.fleet, effects = adopt(
            self._plan, left, {observe.provider: observe for observe in snapshot}, self._now(), closed=self._closed()
        )
        log.info("leading", token=self._lease.token, machines=len(self.fleet.machines), adopted=len(left.records))
        for event in await self._perform(effects):
            await self._apply(event)
        for model in self._plan.lineups:
            if stored := await self._bus.last(WAKE, subjects.wake_request(model)):
                await self._stored_demand(stored)

    async def step(self) -> None:
        """Everything that has happened, then the time that has passed. Raises what ends the term."""
        for event in [*self._inbox.take(), Tick(self._closed())]:
            await self._apply(event)
        self._metrics.fleet(self.fleet)

    async def order(self, order: Command) -> None:
        """The operator's word; on record when this returns."""
        await self._apply(order)

    async def end(self) -> None:
        """Calls under way are left to the next leader, who looks before it acts."""
        await cancel_and_wait(self._calls)

    async def calls_done(self) -> None:
        """When nothing is under way."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def _stored_demand(self, stored: Stored) -> None:
        try:
            request = decode(stored.data, WakeRequest)
        except Unreadable as error:
            log.error("unreadable wake request", error=str(error))
            return
        await self._apply(DemandReported(request, self._now() - stored.age_s))

    async def _apply(self, event: Event) -> None:
        async with self._turn:
            events = deque([event])
            while events:
                if self._fault is not None:
                    raise self._fault
                if not self._lease.held:
                    raise LeadershipLost("the lease is lost")
                event = events.popleft()
                try:
                    self.fleet, effects = handle(self.fleet, event, self._now())
                except Exception as error:
                    if not isinstance(event, DemandReported | ActivityReported):
                        raise
                    self._bus.rejections.record("demand and use", error, traceback=True, kind=type(event).__name__)
                    continue
                events.extend(await self._perform(effects))

    async def _perform(self, effects: list[Effect]) -> list[Event]:
        """In order: nothing is done before it is on record. What was written comes back as events."""
        written: list[Event] = []
        for effect in effects:
            match effect:
                case Journal(entry):
                    await self._journal(entry)
                case Write(record):
                    written.append(RecordWritten(record, await self._records.write(record)))
                case Remember(memory):
                    await self._records.remember(memory)
                case _:
                    self._spawn(self._work(effect))
        return written

    def _work(self, effect: Effect) -> Coroutine[Any, Any, None]:
        """What takes its time; its outcome comes as an event."""
        match effect:
            case Observe(provider):
                return self._observe(provider)
            case TestProvider(provider):
                return self._test(provider)
            case StartMachine(machine, serial, generation):
                start = partial(self._provider(machine).start, machine, generation)
                return self._call(machine, "start", serial, start)
            case StopMachine(machine, serial, force):
                stop = partial(self._provider(machine).stop, machine, force=force)
                return self._call(machine, "stop", serial, stop)
            case Probe():
                return self._probe(effect)
            case _:
                raise TypeError(effect)

    def _provider(self, machine: str) -> Provider:
        return self._providers[self.fleet.machines[machine].spec.provider]

    async def _journal(self, entry: JournalEntry) -> None:
        data = encode(entry)
        await self._bus.publish(
            subjects.journal(entry.machine), data, message_id=blake2b(data, digest_size=16).hexdigest()
        )
        self._metrics.told(entry)
        if isinstance(entry, Transition):
            log.info("machine", machine=entry.machine, was=entry.from_state, state=entry.to_state, reason=entry.reason)
        elif isinstance(entry, ProviderCall) and entry.outcome != "accepted":
            log.warning("call", machine=entry.machine, call=entry.call, outcome=entry.outcome, code=entry.code)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = self._fault or fault

    async def _observe(self, provider: ProviderName) -> None:
        self._inbox.tell(("look", provider), await self._looked(provider))

    async def _looked(self, provider: ProviderName) -> Observed:
        asked_at = self._now()
        try:
            snapshot = await self._providers[provider].observe()
        except ProviderUnavailable as error:
            log.warning("a provider cannot be looked at", provider=provider, reason=str(error))
            return Observed(provider=provider, asked_at=asked_at, observations={}, fault=str(error))
        except Exception as error:
            # What the provider says is from outside: whatever it breaks, it is this provider that is in doubt.
            log.exception("look_failed", provider=provider)
            return Observed(provider=provider, asked_at=asked_at, observations={}, fault=_internal(error))
        return Observed(
            provider=provider, asked_at=asked_at, observations=snapshot.observations, orphans=snapshot.orphans
        )

    async def _test(self, provider: ProviderName) -> None:
        try:
            faults = await self._providers[provider].test()
        except Exception as error:
            log.exception("self_test_failed", provider=provider)
            faults = (_internal(error),)
        for fault in faults:
            log.warning("self-test", provider=provider, fault=fault)
        self._inbox.tell(("test", provider), Tested(provider=provider, faults=faults))

    async def _probe(self, probe: Probe) -> None:
        began = self._now()
        try:
            if probe.step == "reach":
                answer = await self._prober.reach(probe.machine, probe.endpoint, probe.model, probe.timeout)
            else:
                answer = await self._prober.work(probe.machine, probe.endpoint, probe.model, probe.timeout)
        except Exception as error:
            log.exception("probe_failed", machine=probe.machine)
            answer = ProbeResult(answered=False, code=_internal(error), host=True)
        event = Probed(
            machine=probe.machine,
            serial=probe.serial,
            step=probe.step,
            answered=answer.answered,
            seconds=self._now() - began,
            host=answer.host,
            wrong=answer.wrong,
            code=answer.code,
            tokens=answer.tokens,
            max_model_len=answer.max_model_len,
        )
        self._inbox.tell(("probe", probe.machine), event)

    async def _call(self, machine: str, kind: CallKind, serial: int, call: Callable[[], Awaitable[CallResult]]) -> None:
        """Make it, if the server says that we still lead."""
        began = self._now()
        try:
            if not await self._lease.verify():
                raise LeadershipLost("the lease is lost")
            async with asyncio.timeout(self._plan.call_timeout):
                result = await call()
        except TimeoutError:
            result = CallResult(outcome="unknown", code="timeout")
        except BusError:
            raise
        except Exception as error:
            log.exception("call_failed", machine=machine, call=kind)
            result = CallResult(outcome="unknown", code="internal", reason=_internal(error))
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
        self._inbox.tell(("call", machine), event)


def _internal(error: Exception) -> str:
    """For people; the log has where it happened."""
    return f"internal error, see the waker's log: {type(error).__name__}: {error}"
