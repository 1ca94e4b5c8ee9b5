"""The ledger's database keeps what the bus said of every key, and the meter says where the bus went back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from services.meter.adapters.key_store import SqlKeyStore
from services.meter.app.key_copies import KeyCopies
from services.meter.metrics import Metrics
from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus
from shared.key_records import SavedKey
from shared.messages.codec import decode, encode
from shared.messages.keys import KeyRecord, digest
from shared.messages.meter import KeyComparison, KeysQuery
from tests.integration.meter.test_ledger import ledger_on
from tests.integration.meter.test_process import meter_on, read_text
from tests.kit.waiting import PATIENCE_SECONDS, until


def key(name: str, **fields: float | None) -> SavedKey:
    record = KeyRecord(id=name, name=name, created_at=0.0, **fields)  # type: ignore[arg-type]  # times
    return SavedKey(digest=digest(f"sk-{name}"), record=record)


@dataclass
class Copies:
    """The part of a meter that copies keys, on one database."""

    store: SqlKeyStore
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.copies = KeyCopies(self.store, Metrics(self.registry))

    async def show(self, *keys: SavedKey) -> None:
        for saved in keys:
            self.copies.on_key(saved.digest, saved.record)
        await self.copies.refresh()

    def figures(self) -> tuple[int, int, int]:
        """Revocations, missing, revived."""
        names = ("revocations", "keys_missing", "keys_revived")
        values = [self.registry.get_sample_value(f"spot_meter_{name}") for name in names]
        return tuple(int(value or 0) for value in values)  # type: ignore[return-value]  # three of them


@pytest.fixture
async def store(ledger_url: str) -> AsyncIterator[SqlKeyStore]:
    async with ledger_on(ledger_url) as ledger:
        yield SqlKeyStore(ledger._engine)


async def test_copy_keeps_keys_and_revocations_that_an_older_bus_lacks(store: SqlKeyStore) -> None:
    kept, leaked, lost = key("kept"), key("leaked"), key("lost")
    revoked = msgspec.structs.replace(leaked, record=msgspec.structs.replace(leaked.record, revoked_at=5.0))
    before = Copies(store)
    await before.show(kept, leaked, lost)
    assert (before.figures(), before.copies.fault) == ((0, 0, 0), None)
    await before.show(revoked)
    assert (before.figures(), before.copies.fault) == ((1, 0, 0), None)

    older = Copies(store)
    await older.show(kept, leaked)
    assert older.figures() == (1, 1, 1)
    assert "spotinference setup" in (older.copies.fault or "")
    assert sorted(await store.read(), key=lambda k: k.record.name) == [kept, revoked, lost]

    await older.show(revoked, lost)
    assert (older.figures(), older.copies.fault) == ((1, 0, 0), None)


async def test_two_meters_copy_at_the_same_time(store: SqlKeyStore) -> None:
    keys = [key(f"k{number}", revoked_at=float(number) or None) for number in range(50)]
    await asyncio.gather(*(Copies(store).show(*keys) for _ in range(4)))
    assert len(await store.read()) == 50


async def test_malformed_records_stay_out_of_the_copy(store: SqlKeyStore) -> None:
    copies = Copies(store)
    copies.copies.on_key("no digest", key("a").record)
    copies.copies.on_key(digest("sk"), KeyRecord(id="a\0", name="a", created_at=0.0))
    await copies.show(key("good"))
    assert await store.read() == [key("good")]


async def test_running_meter_reports_a_revoked_key_that_the_bus_shows_as_usable(
    bus: JetStreamBus, nats_url: str, database_url: str, tmp_path: Path
) -> None:
    leaked = key("leaked")
    revoked = msgspec.structs.replace(leaked.record, revoked_at=5.0)
    await bus.put(topology.KEYS, leaked.digest, encode(revoked))
    async with meter_on(tmp_path / "meter", nats_url, database_url) as meter:

        async def metrics() -> str:
            return await read_text(f"{meter.metrics_url}/metrics")

        await until(metrics, lambda text: "spot_meter_revocations 1.0" in text)
        await bus.put(topology.KEYS, leaked.digest, encode(leaked.record))  # as an older bus has it
        await until(metrics, lambda text: "spot_meter_keys_revived 1.0" in text)
        reply = await bus.request(subjects.METER_KEYS, encode(KeysQuery()), timeout=PATIENCE_SECONDS)
        assert decode(reply, KeyComparison) == KeyComparison(revocations=1, missing=0, revived=1)
        ready = await read_text(f"{meter.metrics_url}/readyz")
        assert '"alarms"' in ready
        assert "shows 1 as usable" in ready
