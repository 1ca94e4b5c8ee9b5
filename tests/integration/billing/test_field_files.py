"""Files from the field go through the real service: each day has its cost, and one bad day takes no other with it."""

import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from shared.bus import subjects
from shared.messages.codec import decode, encode
from shared.messages.trail import MOST_CHARGES, Trail, TrailQuery
from tests.integration.billing.billing_service import billing, configured
from tests.kit.waiting import PATIENCE_SECONDS

CASES = Path(__file__).parents[2] / "cases" / "books"
FLEET = """
[[tier]]
name = "a100"
provider = "static"
[[tier]]
name = "gpu"
provider = "static"
[[machine]]
id = "azure-1"
tier = "a100"
instance = "%s/resourceGroups/Inference/providers/Microsoft.Compute/virtualMachines/a100-1"
endpoint = "http://127.0.0.1:1"
[[machine]]
id = "google-1"
tier = "a100"
instance = "4567890123456789012"
endpoint = "http://127.0.0.1:2"
""".replace("%s", "/subscriptions/11111111-2222-4333-8444-555555555555")
FILES = {
    "azure_10.csv": ("2026-09-05", "a100", "88.56"),
    "google_native.csv": ("2026-09-03", "a100", "6.24"),
    "cur2-tags-column.csv": ("2026-09-10", "gpu", "8"),
    "gcp-service-category-list.parquet": ("2026-11-18", "gpu", "10.5"),
    "tags-list-of-structs.parquet": ("2026-11-20", "gpu", "10"),
}


def spoil(path: Path) -> None:
    with closing(sqlite3.connect(path)) as books, books:
        for tags, billed in (('[{"key": "tier", "value": "gpu"}]', "8.%"), ("{", "10.%")):
            changed = books.execute("UPDATE cost_rows SET tags = ? WHERE billed LIKE ?", (tags, billed))
            assert changed.rowcount


async def test_each_file_from_the_field_is_its_days_cost(tmp_path: Path) -> None:
    config = configured(FLEET)
    async with billing(tmp_path, config, now=1795737600) as (books, _):  # 2026-11-27
        for name, (day, tier, cost) in FILES.items():
            answer = await books.deliver((CASES / name).read_bytes(), source=name.partition(".")[0], file=name)
            assert not answer.refusals
            report = await books.report(day)
            assert {line.tier: line.spend for line in report.tiers if line.spend} == {tier: Decimal(cost)}
            assert report.spend == Decimal(cost)
            query = encode(TrailQuery(day=day, most_charges=MOST_CHARGES))
            trail = decode(await books.bus.request(subjects.BILLING_TRAIL, query, timeout=PATIENCE_SECONDS), Trail)
            parts = [part for charge in trail.charges for part in charge.parts]
            assert {part.tier for part in parts if part.amount} == {tier}
            assert sum(part.amount for part in parts) == Decimal(cost)
            assert len(trail.charges) == trail.all_charges
            assert name not in repr(trail.charges)

    # Tags as an older reader left them: they name no tier, and no report of any day fails by them.
    spoil(tmp_path / "books.sqlite")
    async with billing(tmp_path, config, now=1795737600) as (books, _):
        for day, _, cost in FILES.values():
            assert (await books.report(day)).spend == Decimal(cost)
        assert (await books.report("2026-09-10")).causes["unattributed"] == 8
