"""Two files of one delivery that repeat each other are two snapshots; parts of one may share a few charges."""

from decimal import Decimal
from pathlib import Path

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from services.billing.core.invoice_files.duplicate_charges import COMPARED_FIELDS, duplicate_files_sql
from services.billing.core.invoice_files.duplicate_charges import count_charges_sql as counted_sql
from services.billing.core.invoice_files.schema import SNAPSHOT_KEY
from tests.unit.billing.cost_row_builders import focus_csv
from tests.unit.billing.file_reading import read

CASES = Path(__file__).parents[2] / "cases/invoices/two_snapshots_folder"


def bill(*costs: str, **more: str) -> bytes:
    """A file with a charge for each cost, each of a resource of its own."""
    return focus_csv(*({"BilledCost": cost, "ResourceId": f"r-{cost}", **more} for cost in costs))


def test_yesterdays_and_todays_export_are_refused_by_name() -> None:
    result = read(*sorted(CASES.glob("*.csv")), name="export-2026-06-11.csv")
    ((refusal),) = result.refusals
    assert refusal.file == "export-2026-06-11.csv"
    assert refusal.reason.startswith(
        "1 of its 1 charges of Cloudy, account G, 2026-06-01T00:00:00Z to 2026-07-01T00:00:00Z are also in 1: "
    )
    assert not result.charges


def test_parts_by_somebodys_word_count_together() -> None:
    result = read(*sorted(CASES.glob("*.csv")), parts=True)
    assert sum(snapshot.billed for snapshot in result.snapshots) == Decimal(31)


def test_three_snapshots_are_reported_pair_by_pair() -> None:
    result = read(bill("1", "2"), bill("1", "2", "3"), bill("1", "2", "3", "4"))
    pairs = {frozenset((refusal.file, refusal.reason.partition(" are also in ")[2][0])) for refusal in result.refusals}
    assert pairs == {frozenset(("bill.csv", "1")), frozenset(("1", "2"))}


def test_what_a_later_export_fills_in_hides_nothing() -> None:
    later = bill("1", "2", "3", InvoiceId="I-1", Tags='{"tier": "A"}', EffectiveCost="0", ListCost="9")
    assert read(bill("1", "2"), later).refusals


def test_few_equal_charges_charges_of_no_cost_and_other_keys_are_no_snapshot() -> None:
    assert not read(bill("1", "2", "3"), bill("1", "4", "5")).refusals
    assert not read(bill("0", "2"), bill("0", "3")).refusals
    assert not read(bill("1"), bill("1", BillingAccountId="acc-2")).refusals
    june = {"BillingPeriodStart": "2026-06-01T00:00:00Z", "BillingPeriodEnd": "2026-07-01T00:00:00Z"}
    assert not read(bill("1"), bill("1", **june)).refusals


COSTS = st.lists(st.integers(0, 5), min_size=1, max_size=8)


@settings(deadline=None, max_examples=30)
@given(files=st.lists(COSTS, min_size=2, max_size=3))
def test_half_of_a_file_is_the_bound(files: list[list[int]]) -> None:
    repeats = set()
    for number, file in enumerate(files):
        others = [cost for other, costs in enumerate(files) if other != number for cost in costs]
        counted = [cost for cost in file if cost]
        shared = sum(min(file.count(cost), others.count(cost)) for cost in set(counted))
        if shared and 2 * shared >= len(counted):
            repeats.add((number, shared, len(counted)))
    columns = ", ".join(f"'' AS {name}" for name in (*SNAPSHOT_KEY, *COMPARED_FIELDS) if name != "billed")
    with duckdb.connect() as db:
        rows = [f"(SELECT {columns}, unnest({file}) AS billed)" for file in files]
        seen = " UNION ALL ".join(counted_sql(row, number, parts=False) for number, row in enumerate(rows))
        db.execute(f"CREATE TABLE seen AS {seen}")
        assert {(row[0], row[-2], row[-1]) for row in db.execute(duplicate_files_sql(9)).fetchall()} == repeats
