"""Wakes in the site's database: each once, whatever is repeated, broken or interrupted."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable

import pytest
from sqlalchemy.exc import OperationalError

from services.site.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.site.adapters.wake_store import SqlWakeStore
from services.site.app.journal_reader import JournalReader
from services.site.core.wakes import WakeFact
from shared import database
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus
from shared.bus.subjects import journal
from shared.bus.topology import FLEET_JOURNAL, WAKE_HISTORY
from shared.messages.budget import Journalled
from shared.messages.codec import encode
from shared.messages.waker import PhaseEnded, Transition
from shared.units import to_millis
from tests.unit.site.journal import NOON, messages, phase, transition, whole_wake

SUMMARY = dict[str, tuple[str, float | None, float | None]]


def oracle(entries: Iterable[Journalled]) -> SUMMARY:
    """By wake: its outcome, when its first machine began to wake, and when one was ready. For wakes with one end."""
    made: SUMMARY = {}
    for entry in sorted(entries, key=lambda entry: entry.at):
        if isinstance(entry, Transition) and entry.wake_id:
            if entry.to_state == "waking":
                made.setdefault(entry.wake_id, ("under_way", entry.at, None))
            elif entry.from_state == "waking" and made[entry.wake_id][0] != "ready":
                outcome = "ready" if entry.to_state == "ready" else "not_ready"
                made[entry.wake_id] = (outcome, made[entry.wake_id][1], entry.at)
    return made


def month_of_journal() -> list[Journalled]:
    """A hundred wakes on five machines, every seventh of them failed and the last unfinished."""
    entries: list[Journalled] = []
    for number in range(100):
        at, name = NOON + 9000 * number, f"wake-{number}"
        if number % 7 == 3:
            entries += [
                transition(at, "asleep", "waking", wake=name),
                phase(at + 200, "booting", 200.0, done=False, wake=name),
                transition(at + 200, "waking", "falling_asleep", wake=name),
            ]
        else:
            machine = f"m{number % 5}"
            entries += whole_wake(at, 30.0 + number, wake=name, machine=machine, tier=f"tier-{number % 2}")
    return [*entries, transition(NOON + 9e6, "asleep", "waking", wake="last")]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[SqlWakeStore]:
    async with database.migrated_engine(database_url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield SqlWakeStore(engine)


async def summary(store: SqlWakeStore) -> SUMMARY:
    return {
        wake.wake_id: (
            wake.outcome,
            None if wake.began_at is None else wake.began_at / 1000,
            None if wake.ended_at is None else wake.ended_at / 1000,
        )
        for wake in await store.wakes()
    }


async def publish(bus: Bus, entries: Iterable[tuple[str, bytes]]) -> None:
    for subject, data in entries:
        await bus.publish(subject, data)


async def drain(reader: JournalReader, bus: Bus) -> None:
    await reader.read_batch()
    while await bus.backlog(WAKE_HISTORY):
        await reader.read_batch()


async def test_every_wake_is_stored_once_in_whatever_order_it_comes(store: SqlWakeStore) -> None:
    entries, bus = month_of_journal(), MemoryBus()
    twice = messages(entries) + messages(entries[::3])
    random.Random(7).shuffle(twice)
    twice.insert(5, (journal("m1"), b"no message"))
    foreign = transition(NOON, "asleep", "waking", wake="forged", machine="m1")
    twice.insert(50, (journal("m2"), encode(foreign)))
    await publish(bus, twice)
    await drain(JournalReader(bus, store, lambda: NOON), bus)
    assert await summary(store) == oracle(entries)
    assert bus.rejections.counts == {FLEET_JOURNAL.name: 2}
    phases = await store.phases(to_millis(NOON))
    passed = [(e.tier, e.phase, e.seconds) for e in entries if isinstance(e, PhaseEnded) and e.done]
    assert sorted(phases) == sorted(passed)


async def test_replay_of_any_age_changes_nothing(store: SqlWakeStore) -> None:
    entries, bus = month_of_journal(), MemoryBus()
    await publish(bus, messages(entries))
    await drain(JournalReader(bus, store, lambda: NOON), bus)
    before = await store.wakes()
    await publish(bus, messages(entries))
    await drain(JournalReader(bus, store, lambda: NOON), bus)
    assert await store.wakes() == before


async def test_new_database_gets_what_the_consumer_has_acknowledged(store: SqlWakeStore) -> None:
    entries, bus = month_of_journal(), MemoryBus()
    await publish(bus, messages(entries))
    while await bus.backlog(WAKE_HISTORY):
        for delivery in await bus.fetch(WAKE_HISTORY, batch=500, wait=0.1):
            await delivery.ack()
    await JournalReader(bus, store, lambda: NOON).read_batch()
    assert await summary(store) == oracle(entries)


class FailingStore:
    """A store whose database can be read and not written."""

    def __init__(self, store: SqlWakeStore) -> None:
        self.newest = store.newest

    async def record(self, facts: Iterable[WakeFact]) -> None:
        raise OperationalError("INSERT", {}, Exception("the database is down"))


async def test_nothing_is_acknowledged_before_it_is_committed(store: SqlWakeStore) -> None:
    entries, bus = whole_wake(NOON, 90.0, wake="w1"), MemoryBus()
    await publish(bus, messages(entries))
    reader = JournalReader(bus, FailingStore(store), lambda: NOON)
    with pytest.raises(OperationalError):
        await reader.read_batch()
    with pytest.raises(OperationalError):
        await reader.read_batch()
    assert await bus.backlog(WAKE_HISTORY) == len(entries)
    assert reader.read_at is None


async def test_replicas_that_share_the_facts_of_a_wake_make_it_whole(store: SqlWakeStore) -> None:
    entries = month_of_journal()
    bus = MemoryBus()
    await publish(bus, messages(entries))
    reader = JournalReader(bus, store, lambda: NOON)
    facts = reader._facts((await bus.page(FLEET_JOURNAL, after=0, most=10_000)).messages)
    random.Random(3).shuffle(facts)
    await asyncio.gather(*(store.record(facts[start::8]) for start in range(8)))
    assert await summary(store) == oracle(entries)
