"""The buckets that only the leading waker writes: the fleet as all see it, and what a later leader needs."""

from collections.abc import Mapping

import msgspec
import structlog

from services.waker.core.adopt import PersistedState
from services.waker.core.fleet_spec import FleetSpec
from shared.bus import subjects
from shared.bus.ports import Bus
from shared.bus.topology import FLEET, WAKER, WAKES, Bucket
from shared.errors import BusError, Conflict
from shared.fleet_records import check_machine
from shared.messages.codec import Decoder, Unreadable, decode, encode
from shared.messages.waker import (
    REMOVED,
    KeyWakes,
    MachineMemory,
    MachineRecord,
    Memory,
    TierMemory,
    WakeMemory,
    WakesMemory,
)

log = structlog.get_logger()

CLOCKS_DIFFER_S = 60.0
"""A record that is further in the future than clocks differ is no proof of a newer configuration."""

_memory: Decoder[Memory] = Decoder(Memory)


class LeadershipLost(BusError):
    """Another waker leads, or a foreign write hit what only the leader writes."""


class FleetStore:
    """One term's access to the buckets: every write names the revision that it replaces."""

    def __init__(self, bus: Bus, spec: FleetSpec) -> None:
        self._bus = bus
        self._spec = spec
        self._revisions: dict[str, int] = {}
        """By machine."""
        self._memories: dict[str, int] = {}
        """By key."""
        self._key_revisions: dict[str, int] = {}
        """The revisions of the entries of bucket `wakes`, by key."""

    async def load(self, now: float) -> PersistedState:
        """Load what earlier leaders left. Unreadable entries are reported and replaced."""
        machines: dict[str, MachineMemory] = {}
        tiers: dict[str, TierMemory] = {}
        operator_wakes: tuple[str, ...] = ()
        wakes: Mapping[str, WakeMemory] = {}
        for key, entry in (await self._bus.entries(WAKER)).items():
            self._memories[key] = entry.revision
            try:
                memory = _memory.decode(entry.value)
            except Unreadable as error:
                self._bus.rejections.record(WAKER.name, error, entry=key)
                continue
            match memory:
                case MachineMemory():
                    machines[memory.machine] = memory
                case TierMemory():
                    tiers[memory.tier] = memory
                case WakesMemory():
                    wakes = memory.wakes
                case _:
                    operator_wakes = memory.models
        records = await self._records()
        others = {name: record for name, (record, _) in records.items() if name not in self._spec.machines}
        newer = tuple(name for name, record in others.items() if self._is_newer(record, now))
        return PersistedState(
            records={name: records[name] for name in records.keys() - others.keys()},
            # An outdated leader leaves orphans alone, and so the alarms that a current one has raised about them.
            removed={n: record for n, record in others.items() if n not in newer and (record.tier or not newer)},
            newer=newer,
            machines=machines,
            tiers=tiers,
            operator_wakes=operator_wakes,
            wakes=wakes,
            keys=await self._keys(),
        )

    async def _keys(self) -> dict[str, KeyWakes]:
        keys: dict[str, KeyWakes] = {}
        for key, entry in (await self._bus.entries(WAKES)).items():
            self._key_revisions[key] = entry.revision
            try:
                message = decode(entry.value, KeyWakes)
            except Unreadable as error:
                self._bus.rejections.record(WAKES.name, error, entry=key)  # its wakes are counted anew
                continue
            keys[message.key_id] = message
        return keys

    async def _records(self) -> dict[str, tuple[MachineRecord, int]]:
        records: dict[str, tuple[MachineRecord, int]] = {}
        for key, entry in (await self._bus.entries(FLEET)).items():
            try:
                name = subjects.name(key)
            except Unreadable as error:
                self._bus.rejections.record(FLEET.name, error, entry=key)
                continue
            self._revisions[name] = entry.revision
            try:
                record = decode(entry.value, MachineRecord)
                check_machine(name, record)
                records[name] = (record, entry.revision)
            except Unreadable as error:
                self._bus.rejections.record(FLEET.name, error, entry=key)
                if name not in self._spec.machines:
                    await self.forget(name)
        return records

    def _is_newer(self, record: MachineRecord, now: float) -> bool:
        """Whether a newer configuration than this one has the machine, as far as clocks tell. No orphan is in any."""
        is_configured = record.tier and record.alarm_reason != REMOVED
        return bool(is_configured) and self._spec.loaded_at < record.configured_at <= now + CLOCKS_DIFFER_S

    async def write(self, record: MachineRecord) -> int:
        """Write a record and return its new revision.

        Raises:
            LeadershipLost: somebody else has written it meanwhile.
        """
        stamped = msgspec.structs.replace(record, configured_at=self._spec.loaded_at)
        key, value = subjects.machine_key(record.machine), encode(stamped)
        known = self._revisions.get(record.machine)
        try:
            if known is None:
                revision = await self._bus.create(FLEET, key, value)
            else:
                revision = await self._bus.update(FLEET, key, value, revision=known)
        except Conflict as error:
            raise LeadershipLost(f"somebody else wrote the record of {record.machine}: {error}") from error
        self._revisions[record.machine] = revision
        return revision

    async def forget(self, machine: str) -> None:
        """Delete a machine's record.

        Raises:
            LeadershipLost: somebody else has written it meanwhile.
        """
        if (revision := self._revisions.pop(machine, None)) is None:
            return
        try:
            await self._bus.delete(FLEET, subjects.machine_key(machine), revision=revision)
        except Conflict as error:
            raise LeadershipLost(f"somebody else wrote the record of {machine}: {error}") from error
        log.info("machine_record_deleted", machine=machine)

    async def remember(self, memory: Memory | KeyWakes) -> None:
        """Write a memory.

        Raises:
            LeadershipLost: somebody else has written it meanwhile.
        """
        match memory:
            case KeyWakes():
                await self._put(WAKES, subjects.key_wakes_key(memory.key_id), memory, self._key_revisions)
                return
            case MachineMemory():
                key = subjects.machine_memory_key(memory.machine)
            case TierMemory():
                key = subjects.tier_memory_key(memory.tier)
            case WakesMemory():
                key = subjects.WAKER_WAKES_KEY
            case _:
                key = subjects.WAKER_ORDERS_KEY
        await self._put(WAKER, key, memory, self._memories)

    async def _put(self, bucket: Bucket, key: str, memory: Memory | KeyWakes, revisions: dict[str, int]) -> None:
        known = revisions.get(key)
        try:
            if isinstance(memory, KeyWakes) and not memory.wakes and not memory.cost:
                if known is not None:
                    await self._bus.delete(bucket, key, revision=known)
                    del revisions[key]
                return
            if known is None:
                revision = await self._bus.create(bucket, key, encode(memory))
            else:
                revision = await self._bus.update(bucket, key, encode(memory), revision=known)
        except Conflict as error:
            raise LeadershipLost(f"somebody else wrote the memory {key}: {error}") from error
        revisions[key] = revision
