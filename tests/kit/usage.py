"""Sends usage as gateways do: whose it is and who sends it is on the bus before."""

from weakref import WeakKeyDictionary

from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.messages.codec import encode
from shared.messages.gateway import UsageEvent, UsageSource
from shared.messages.keys import KeyRecord, digest

_announced: "WeakKeyDictionary[Bus, set[str]]" = WeakKeyDictionary()


async def announce(bus: Bus, *, source: str, key_id: str) -> None:
    """Write a key and a gateway's source on the bus, once."""
    known = _announced.setdefault(bus, set())
    if f"source {source}" not in known:
        record = UsageSource(source=source, at=0.0)
        await bus.put(topology.SOURCES, subjects.source_key(source), encode(record))
    if f"key {key_id}" not in known:
        await bus.put(topology.KEYS, digest(f"sk-{key_id}"), encode(KeyRecord(id=key_id, name="n", created_at=0.0)))
    known |= {f"source {source}", f"key {key_id}"}


async def send(bus: Bus, *events: UsageEvent) -> None:
    """Publish the events, after their sources and keys."""
    for event in events:
        await announce(bus, source=event.source, key_id=event.key_id)
        await bus.publish(subjects.usage(event.source), encode(event))
