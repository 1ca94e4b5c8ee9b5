"""Records what happens to machines and gateways, as far as it can explain a difference between engine and ledger."""

from collections.abc import Callable, Iterable
from hashlib import sha256

import structlog

from services.meter.core.fleet_event import EVENT_RETENTION_S, FleetEvent, FleetEventKind
from services.meter.core.gateway_liveness import GatewayLiveness
from services.meter.ports import EngineStore
from shared.bus import subjects, topology
from shared.bus.ports import Bus, Delivery, Received
from shared.bus.replay import replay
from shared.journal_entries import decode_entry
from shared.messages.budget import Journalled
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import Activity
from shared.messages.waker import ProviderCall, Transition

log = structlog.get_logger()

BATCH_SIZE = 500
FETCH_SECONDS = 1.0
MARGIN_SECONDS = 3600.0
"""How far the clocks of wakers and bus may differ."""
SERVING = ("ready", "draining")


class FleetEventRecorder:
    """Events are committed, then acknowledged; one that is delivered twice is stored once."""

    def __init__(self, bus: Bus, store: EngineStore, now: Callable[[], float]) -> None:
        self._bus = bus
        self._store = store
        self._now = now
        self._gateways = GatewayLiveness()
        self._newest_at: float | None = None
        """Of the newest stored event of the journal, when it was last read; None: it was not read yet."""

    async def read_journal(self) -> None:
        """Record one batch of the journal. After `BusUnavailable` or one of `DATABASE_ERRORS` nothing is lost."""
        await self._compare()
        deliveries = await self._bus.fetch(topology.AUDIT, batch=BATCH_SIZE, wait=FETCH_SECONDS)
        events = self._parse(deliveries)
        await self._store.record_events(events)
        if events:
            self._newest_at = await self._store.newest_journal_event_at() or 0.0
        for delivery in deliveries:
            await delivery.ack()

    async def _compare(self) -> None:
        """Read the journal again if the ledger is not the one that it was: restored, or failed over to a replica."""
        newest = await self._store.newest_journal_event_at()
        if self._newest_at is None or (newest or 0.0) < self._newest_at:
            await self._catch_up(newest)
            newest = await self._store.newest_journal_event_at()
        self._newest_at = newest or 0.0

    async def _catch_up(self, newest: float | None) -> None:
        """Read again what the journal has beyond the newest stored event.

        The consumer does not deliver it: its position is from before the ledger went back.
        """
        oldest = self._now() - EVENT_RETENTION_S
        since = oldest if newest is None else max(oldest, newest - MARGIN_SECONDS)
        async for messages in replay(self._bus, topology.FLEET_JOURNAL, since=since, most=BATCH_SIZE):
            await self._store.record_events(self._parse(messages, is_replay=True))

    def _parse(self, messages: Iterable[Delivery | Received], *, is_replay: bool = False) -> dict[str, FleetEvent]:
        """Return the events by an id of the message that each came from.

        `is_replay`: an unreadable message has been reported, or will be when the consumer delivers it.
        """
        events: dict[str, FleetEvent] = {}
        for message in messages:
            try:
                event = event_of(decode_entry(message.subject, message.data))
            except Unreadable as error:
                if not is_replay:
                    self._bus.rejections.record(topology.FLEET_JOURNAL.name, error, subject=message.subject)
                continue
            if event is not None:
                events[sha256(message.data).hexdigest()] = event
        return events

    async def on_activity(self, received: Received) -> None:
        try:
            activity = decode(received.data, Activity)
            subjects.check_sender(received.subject, activity.gateway)
        except Unreadable as error:
            self._bus.rejections.record(subjects.ACTIVITIES, error, subject=received.subject)
            return
        self._gateways.record(activity, self._now())

    async def check_gateways(self) -> None:
        """Record which gateways fell silent with requests in flight: if they died, no usage event counts these."""
        if not self._bus.connected:
            self._gateways.clear()
            return
        for activity in self._gateways.pop_silent(self._now()):
            events = {
                f"crash/{activity.gateway}/{machine}/{activity.sent_at!r}": FleetEvent(
                    machine=machine, at=activity.sent_at, kind=FleetEventKind.CRASH, amount=usage.in_flight
                )
                for machine, usage in activity.machines.items()
                if usage.in_flight
            }
            if events:
                log.warning("gateway_lost_with_requests_in_flight", gateway=activity.gateway)
            await self._store.record_events(events)


def event_of(entry: Journalled) -> FleetEvent | None:
    """Return what a journal entry may explain; None: nothing."""
    match entry:
        case ProviderCall(call="probe"):
            kind = FleetEventKind.PROBE if entry.outcome == "accepted" else FleetEventKind.LOST_PROBE
            return FleetEvent(machine=entry.machine, at=entry.at, kind=kind, amount=entry.tokens)
        case ProviderCall(call="start") if entry.outcome in ("accepted", "unknown"):
            return FleetEvent(machine=entry.machine, at=entry.at, kind=FleetEventKind.START)
        case Transition() if entry.from_state in SERVING and entry.to_state in ("asleep", "gone", "broken"):
            return FleetEvent(machine=entry.machine, at=entry.at, kind=FleetEventKind.DEATH)
        case _:
            return None
