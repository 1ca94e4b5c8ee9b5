"""Keys' names stand beside their ids in what billing tells and publishes; figures and revisions know ids alone."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.billing import wiring
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.messages.billing import PeriodReport, ReportsQuery
from shared.messages.codec import decode, encode
from shared.messages.keys import KeyRecord, digest
from tests.integration.billing.billing_service import Billing, billing, configured
from tests.integration.billing.fake_reports import DyingBus
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import DAY, focus_csv


async def name_key(bus: Bus, name: str) -> None:
    """The key of all of the meter's tokens."""
    record = KeyRecord(id="k", name=name, created_at=1.0, revoked_at=2.0)
    await bus.put(topology.KEYS, digest("sk-k"), encode(record))


async def names(books: Billing) -> list[tuple[str | None, str | None]]:
    return [(key.key_id, key.name) for key in (await books.report()).keys]


async def test_a_name_is_shown_and_a_rename_is_no_revision(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        await books.deliver(focus_csv({"BilledCost": "100.00"}))
        assert await names(books) == [("k", None)], "a key that no record names stands there by its id"
        first = await books.report()
        await name_key(books.bus, "Acme")
        assert await until(lambda: names(books), lambda published: published == [("k", "Acme")])
        await name_key(books.bus, "Acme Ltd")
        assert await until(lambda: names(books), lambda published: published == [("k", "Acme Ltd")])
        renamed = await books.report()
        assert replace(renamed, keys=tuple(replace(key, name=None) for key in renamed.keys)) == first
        reply = await books.bus.request(
            subjects.BILLING_REPORTS, encode(ReportsQuery(to=DAY, days=1)), timeout=PATIENCE_SECONDS
        )
        period = decode(reply, PeriodReport)
        assert [key.name for key in (*period.keys, *period.days[0].keys)] == ["Acme Ltd"] * 2


async def test_published_files_have_names_and_explanations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "DAILY_SECONDS", 0.05)
    memory = DyingBus()
    await name_key(memory, "Acme")
    async with billing(tmp_path, configured(), memory) as (books, _):
        await books.deliver(focus_csv({"BilledCost": "100.00"}, {"BilledCost": "3.00", "ResourceId": "disk-x"}))
        latest = await until(memory.published_by_key, lambda by_key: f"published.{DAY}" in by_key)
        name = f"{DAY}.{latest[f'published.{DAY}'].revision}"
        published = json.loads(memory.files()[f"{name}.json"])
        assert [(key["key_id"], key["name"]) for key in published["keys"]] == [("k", "Acme")]
        (unattributed,) = [one for one in published["explanations"] if one["figure"] == "unattributed"]
        assert unattributed["amount"] == published["causes"]["unattributed"] == "3"
        for part in (b"Acme", b"disk-x"):
            assert part in memory.files()[f"{name}.html"]
