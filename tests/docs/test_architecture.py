"""`docs/explanation` has the bus as the code declares it, and links to the machine states."""

import re

from shared.bus import subjects, topology
from tests.docs.pages import page

PAGE = page("docs/explanation/architecture.md")


def test_the_table_has_everything_on_the_bus() -> None:
    entries = [cells[0] + cells[1] for cells in PAGE.rows("## The bus")]
    buckets = [f"bucket `{bucket.name}`" for bucket in topology.BUCKETS]
    stores = [f"object store `{store.name}`" for store in topology.OBJECT_STORES]
    streams = [f"stream `{stream.name}`" for stream in topology.STREAMS]
    replied_subjects = (
        subjects.WAKER_COMMAND,
        subjects.METER_TOKENS,
        subjects.METER_HISTORY,
        subjects.METER_GAPS,
        subjects.METER_LOST,
        subjects.METER_FIGURES,
        subjects.METER_AUDIT,
        subjects.METER_KEYS,
        subjects.METER_RESPONSES,
        subjects.BILLING_GATE,
        subjects.BILLING_IMPORT,
        subjects.BILLING_IMPORT_STATUS,
        subjects.BILLING_REPORT,
        subjects.BILLING_REPORTS,
        subjects.BILLING_BANDS,
        subjects.BILLING_STATEMENT,
        subjects.BILLING_PUBLISHED,
    )
    requests = [f"`{subject}`" for subject in replied_subjects]
    expected = [*buckets, *stores, *streams, *requests, "`activity.<gateway>`"]
    assert [name for name in expected if not any(name in entry for entry in entries)] == []
    described = [f"bucket `{name}`" for entry in entries for name in re.findall(r"bucket `(\w+)`", entry)]
    assert sorted(described) == sorted(buckets)


def test_the_fleet_links_to_the_states_and_draws_no_second_diagram() -> None:
    fleet = page("docs/explanation/fleet.md")
    assert "../reference/fleet-states.md" in fleet.links
    assert not any(block.startswith("stateDiagram") for block in fleet.blocks("mermaid"))
