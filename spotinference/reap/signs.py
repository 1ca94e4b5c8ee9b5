"""Reads from the bus who speaks for the machines."""

import asyncio
from collections import Counter

import structlog

from shared.bus import subjects
from shared.bus.access import BusAccess
from shared.bus.jetstream import connect
from shared.bus.ports import Bus, Received
from shared.bus.topology import FLEET, LEASES
from shared.errors import BusError, BusRefused, Misconfigured
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.gateway import Activity
from shared.messages.waker import MachineRecord, ProviderCall
from spotinference.reap.rule import FleetSigns

log = structlog.get_logger()

CONNECT_SECONDS = 10.0
LISTEN_SECONDS = 5.0
"""A gateway reports every 2 s."""


class BusSigns:
    """Connects anew each time: a reaper that waits for half an hour needs no connection in between."""

    def __init__(
        self, access: BusAccess, *, listen_s: float = LISTEN_SECONDS, connect_s: float = CONNECT_SECONDS
    ) -> None:
        self._access = access
        self._listen_s = listen_s
        self._connect_s = connect_s

    async def read(self) -> FleetSigns | None:
        """Return what the bus shows now; None if it cannot be reached.

        Raises:
            Misconfigured: the bus refuses the reaper, which proves nothing about who speaks for the machines.
        """
        try:
            async with connect(self._access, name="reap", wait=self._connect_s) as bus:
                return await self._read(bus)
        except BusRefused as error:
            raise Misconfigured(
                f"{error}: nothing is stopped: give the reaper the key of its user of the bus"
            ) from error
        except BusError as error:
            log.warning("bus_not_reached", reason=str(error))
            return None

    async def journal(self, entry: ProviderCall) -> bool:
        """Put an entry into the journal. Returns whether the bus took it."""
        try:
            async with connect(self._access, name="reap", wait=self._connect_s) as bus:
                await bus.publish(subjects.journal(entry.machine), encode(entry))
        except BusError as error:
            log.warning("journal_not_reached", reason=str(error))
            return False
        return True

    async def _read(self, bus: Bus) -> FleetSigns:
        activities: dict[str, Activity] = {}

        async def on_activity(received: Received) -> None:
            try:
                activity = decode(received.data, Activity)
                subjects.check_sender(received.subject, activity.gateway)
            except Unreadable as error:
                bus.rejections.record(subjects.ACTIVITIES, error, subject=received.subject)
                return
            activities[activity.gateway] = activity

        listening = await bus.subscribe(subjects.ACTIVITIES, on_activity)
        await asyncio.sleep(self._listen_s)
        await listening.stop()
        in_flight: Counter[str] = Counter()
        for activity in activities.values():
            in_flight.update({machine: use.in_flight for machine, use in activity.machines.items()})
        return FleetSigns(
            is_led=await bus.get(LEASES, subjects.WAKER_LEASE) is not None,
            records=await _records(bus),
            in_flight=in_flight,
        )


async def _records(bus: Bus) -> dict[str, MachineRecord]:
    records: dict[str, MachineRecord] = {}
    for key, entry in (await bus.entries(FLEET)).items():
        try:
            name, record = subjects.name(key), decode(entry.value, MachineRecord)
        except Unreadable as error:
            bus.rejections.record(FLEET.name, error, entry=key)
            continue
        if record.machine == name:
            records[name] = record
    return records
