"""One term as the leader: takes the fleet over, then turns events into records, journal entries and calls.

The only writer of the bucket `fleet`. A term ends with its first doubt, be it a lost lease, somebody else's write or a
bus that does not answer; the next one begins from what is on record and what the providers see.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from hashlib import blake2b
from typing import Any

import structlog

from services.waker.core.adopt import adopt
from services.waker.core.events import (
    Called,
    CallKind,
    Demand,
    Effect,
    Event,
    Journal,
    LookAt,
    Looked,
    Probe,
    Probed,
    Sight,
    StartMachine,
    StopMachine,
    Tick,
    Write,
    Written,
)
from services.waker.core.fleet import handle
from services.waker.core.plan import Plan
from services.waker.core.state import Fleet
from services.waker.inbox import Inbox
from services.waker.metrics import Metrics
from services.waker.ports import CallResult, Prober, Provider
from shared.bus import subjects
from shared.bus.lease import Lease
from shared.bus.ports import Bus
from shared.bus.topology import FLEET, WAKE
from shared.errors import BusError, Conflict
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.gateway import WakeRequest
from shared.messages.waker import JournalEntry, MachineRecord, ProviderCall, Transition
from shared.tasks import end

log = structlog.get_logger()


class Deposed(BusError):
    """Somebody else leads, or wrote what only the leader writes."""


class Term:
    """Made when the lease was taken; `begin`, then `step` again and again, and `end`."""

    def __init__(
        self,
        *,
        bus: Bus,
        lease: Lease,
        plan: Plan,
        providers: Mapping[str, Provider],
        prober: Prober,
        inbox: Inbox,
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._lease = lease
        self._plan = plan
        self._providers = providers
        self._prober = prober
        self._inbox = inbox
        self._metrics = metrics
        self._now = now
        self._revisions: dict[str, int] = {}
        self._waking_since: dict[str, float] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self.fleet = Fleet(plan=plan, leading_since=now(), machines={})

    async def begin(self, before: Fleet | None) -> None:
        """Take over what there is. `BusError` where that cannot be done now."""
        records = await self._read()
        sights = {name: await provider.look() for name, provider in self._providers.items() if self._sleeps(name)}
        self.fleet, effects = adopt(self._plan, records, sights, self._now(), before)
        log.info("leading", token=self._lease.token, machines=len(self.fleet.machines), adopted=len(records))
        await self._perform(effects)  # the revisions of what drains are in the fleet already
        for model in self._plan.lineups:
            if stored := await self._bus.last(WAKE, subjects.wake_request(model)):
                await self._stored_demand(stored)

    async def step(self) -> None:
        """Everything that has happened, then the time that has passed. Raises what ends the term."""
        for event in [*self._inbox.take(), Tick()]:
            if self._fault is not None:
                raise self._fault
            await self._apply(event)
        self._metrics.fleet(self.fleet.machines.values())

    async def end(self) -> None:
        """Calls under way are left to the next leader, who looks before it acts."""
        await end(self._calls)

    async def calls_done(self) -> None:
        """When nothing is under way."""
        while self._calls:
            await asyncio.wait(self._calls)

    def _sleeps(self, machine: str) -> bool:
        return self._plan.machines[machine].sleeps

    async def _read(self) -> dict[str, tuple[MachineRecord, int]]:
        records: dict[str, tuple[MachineRecord, int]] = {}
        for key, entry in (await self._bus.entries(FLEET)).items():
            name = subjects.name(key)
            if name not in self._plan.machines:
                await self._bus.delete(FLEET, key)
                log.info("a machine is no longer configured", machine=name)
                continue
            self._revisions[name] = entry.revision
            try:
                records[name] = (decode(entry.value, MachineRecord), entry.revision)
            except Unreadable as error:
                log.error("unreadable record: the machine is seen anew", machine=name, error=str(error))
        return records

    async def _stored_demand(self, stored: bytes) -> None:
        try:
            request = decode(stored, WakeRequest)
        except Unreadable as error:
            log.error("unreadable wake request", error=str(error))
            return
        await self._apply(Demand(request, min(request.sent_at, self._now())))

    async def _apply(self, event: Event) -> None:
        events = deque([event])
        while events:
            if not self._lease.held:
                raise Deposed("the lease is lost")
            self.fleet, effects = handle(self.fleet, events.popleft(), self._now())
            events.extend(await self._perform(effects))

    async def _perform(self, effects: list[Effect]) -> list[Event]:
        """In order: nothing is done before it is on record. What was written comes back as events."""
        written: list[Event] = []
        for effect in effects:
            match effect:
                case Journal(entry):
                    await self._journal(entry)
                case Write(record):
                    written.append(Written(record, await self._write(record)))
                case LookAt(machine):
                    self._spawn(self._look(machine))
                case Probe():
                    self._spawn(self._probe(effect))
                case StartMachine(machine, serial, generation):
                    start = partial(self._providers[machine].start, generation)
                    self._spawn(self._call(machine, "start", serial, start))
                case StopMachine(machine, serial):
                    self._spawn(self._call(machine, "stop", serial, self._providers[machine].stop))
        return written

    async def _journal(self, entry: JournalEntry) -> None:
        data = encode(entry)
        await self._bus.publish(
            subjects.journal(entry.machine), data, message_id=blake2b(data, digest_size=16).hexdigest()
        )
        self._metrics.told(entry, self._waked(entry))
        if isinstance(entry, Transition):
            log.info("machine", machine=entry.machine, was=entry.from_state, state=entry.to_state, reason=entry.reason)
        elif isinstance(entry, ProviderCall) and entry.outcome != "accepted":
            log.warning("call", machine=entry.machine, call=entry.call, outcome=entry.outcome, code=entry.code)

    def _waked(self, entry: JournalEntry) -> float | None:
        """How long the wake took that this entry ends well."""
        if not isinstance(entry, Transition):
            return None
        if entry.to_state == "waking":
            self._waking_since[entry.machine] = entry.at
            return None
        since = self._waking_since.pop(entry.machine, None)
        return entry.at - since if since is not None and entry.to_state == "ready" else None

    async def _write(self, record: MachineRecord) -> int:
        key, value = subjects.machine_key(record.machine), encode(record)
        known = self._revisions.get(record.machine)
        try:
            if known is None:
                revision = await self._bus.create(FLEET, key, value)
            else:
                revision = await self._bus.update(FLEET, key, value, revision=known)
        except Conflict as error:
            raise Deposed(f"somebody else wrote the record of {record.machine}: {error}") from error
        self._revisions[record.machine] = revision
        return revision

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = self._fault or fault

    async def _look(self, machine: str) -> None:
        asked_at = self._now()
        sight: Sight = await self._providers[machine].look()
        self._inbox.tell(("look", machine), Looked(machine, sight, asked_at))

    async def _probe(self, probe: Probe) -> None:
        began = self._now()
        if probe.step == "reach":
            answer = await self._prober.reach(probe.endpoint, probe.timeout)
        else:
            answer = await self._prober.token(probe.endpoint, probe.model, probe.timeout)
        event = Probed(
            machine=probe.machine,
            serial=probe.serial,
            step=probe.step,
            answered=answer.answered,
            seconds=self._now() - began,
            code=answer.code,
            tokens=answer.tokens,
        )
        self._inbox.tell(("probe", probe.machine), event)

    async def _call(self, machine: str, kind: CallKind, serial: int, call: Callable[[], Awaitable[CallResult]]) -> None:
        """Make it, if the server says that we still lead."""
        began = self._now()
        try:
            if not await self._lease.verify():
                raise Deposed("the lease is lost")
            async with asyncio.timeout(self._plan.call_timeout):
                result = await call()
        except TimeoutError:
            result = CallResult(outcome="unknown", code="timeout")
        event = Called(
            machine=machine,
            call=kind,
            serial=serial,
            outcome=result.outcome,
            seconds=self._now() - began,
            code=result.code,
            reason=result.reason,
            endpoint=result.endpoint,
        )
        self._inbox.tell(("call", machine), event)
