"""What happens to machines and gateways, kept where it can explain a difference between engine and ledger."""

from collections.abc import Callable, Iterable
from hashlib import sha256

import structlog

from services.meter.adapters.engine_store import NOTES_DAYS, SqlEngineStore
from services.meter.core.gateway_liveness import GatewayLiveness
from services.meter.core.machine_audit import FleetEvent
from shared.bus import subjects, topology
from shared.bus.ports import Bus, Delivery, Received
from shared.bus.replay import replay
from shared.messages.budget import Journalled
from shared.messages.codec import Decoder, Unreadable, decode
from shared.messages.gateway import Activity
from shared.messages.waker import ProviderCall, Transition
from shared.units import DAY_S

log = structlog.get_logger()

BATCH = 500
FETCH_SECONDS = 1.0
MARGIN_SECONDS = 3600.0
"""How far the clocks of wakers and bus may differ."""
SERVING = ("ready", "draining")
_entries: Decoder[Journalled] = Decoder(Journalled)


class FleetEventRecorder:
    """Notes are committed, then acknowledged; told twice, kept once."""

    def __init__(self, bus: Bus, book: SqlEngineStore, now: Callable[[], float]) -> None:
        self._bus = bus
        self._book = book
        self._now = now
        self._gateways = GatewayLiveness()
        self._caught_up = False

    async def read_on(self) -> None:
        """One batch of the journal. `BusUnavailable`, or what `DATABASE_ERRORS` lists: nothing is lost."""
        if not self._caught_up:
            await self._catch_up()
            self._caught_up = True
        deliveries = await self._bus.fetch(topology.AUDIT, batch=BATCH, wait=FETCH_SECONDS)
        await self._book.note(self._notes(deliveries))
        for delivery in deliveries:
            await delivery.ack()

    async def _catch_up(self) -> None:
        """Read again what the journal has beyond the newest note.

        The consumer does not bring it: it stands where the ledger stood before it was restored from an older copy.
        """
        oldest = self._now() - NOTES_DAYS * DAY_S
        newest = await self._book.newest_journal_event_at()
        since = oldest if newest is None else max(oldest, newest - MARGIN_SECONDS)
        async for messages in replay(self._bus, topology.FLEET_JOURNAL, since=since, most=BATCH):
            await self._book.note(self._notes(messages, again=True))

    def _notes(self, messages: Iterable[Delivery | Received], *, again: bool = False) -> dict[str, FleetEvent]:
        """By what each came of. `again`: what cannot be read was reported, or will be when the consumer brings it."""
        notes: dict[str, FleetEvent] = {}
        for message in messages:
            try:
                note = noted(_entries.decode(message.data))
            except Unreadable as error:
                if not again:
                    self._bus.rejections.record(topology.FLEET_JOURNAL.name, error, subject=message.subject)
                continue
            if note is not None:
                notes[sha256(message.data).hexdigest()] = note
        return notes

    async def on_activity(self, received: Received) -> None:
        try:
            self._gateways.record(decode(received.data, Activity), self._now())
        except Unreadable as error:
            self._bus.rejections.record(subjects.ACTIVITIES, error, subject=received.subject)

    async def look_at_gateways(self) -> None:
        """Who fell silent with requests in flight: what they had there is in no usage event, if they died."""
        if not self._bus.connected:
            self._gateways.clear()
            return
        for last in self._gateways.pop_silent(self._now()):
            notes = {
                f"crash/{last.gateway}/{machine}/{last.sent_at!r}": FleetEvent(
                    machine=machine, at=last.sent_at, kind="crash", amount=activity.in_flight
                )
                for machine, activity in last.machines.items()
                if activity.in_flight
            }
            if notes:
                log.warning("a gateway fell silent with requests in flight", gateway=last.gateway)
            await self._book.note(notes)


def noted(entry: Journalled) -> FleetEvent | None:
    """What of an entry may explain a difference."""
    match entry:
        case ProviderCall(call="probe"):
            kind = "probe" if entry.outcome == "accepted" else "lost_probe"
            return FleetEvent(machine=entry.machine, at=entry.at, kind=kind, amount=entry.tokens)
        case ProviderCall(call="start") if entry.outcome in ("accepted", "unknown"):
            return FleetEvent(machine=entry.machine, at=entry.at, kind="start")
        case Transition() if entry.from_state in SERVING and entry.to_state in ("asleep", "gone", "broken"):
            return FleetEvent(machine=entry.machine, at=entry.at, kind="death")
        case _:
            return None
