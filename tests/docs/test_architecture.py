"""`docs/architecture.md` has the bus and the fleet's moves as they are in the code."""

import re

from services.waker.core.state import MOVES
from shared.bus import subjects, topology
from tests.docs.pages import page

PAGE = page("docs/architecture.md")


def test_everything_on_the_bus_is_in_its_table() -> None:
    things = [cells[0] + cells[1] for cells in PAGE.rows("## The bus")]
    buckets = [f"bucket `{bucket.name}`" for bucket in topology.BUCKETS]
    stores = [f"object store `{store.name}`" for store in topology.OBJECT_STORES]
    streams = [f"stream `{stream.name}`" for stream in topology.STREAMS]
    asked = (subjects.METER_TOKENS, subjects.METER_HISTORY, subjects.BILLING_IMPORT, subjects.BILLING_REPORT)
    requests = [f"`{subject}`" for subject in asked]
    wanted = [*buckets, *stores, *streams, *requests, "`activity.<gateway>`"]
    assert [name for name in wanted if not any(name in thing for thing in things)] == []
    told = [f"bucket `{name}`" for thing in things for name in re.findall(r"bucket `(\w+)`", thing)]
    assert sorted(told) == sorted(buckets)


def test_the_diagram_has_the_legal_moves() -> None:
    (diagram,) = (block for block in PAGE.blocks("mermaid") if block.startswith("stateDiagram"))
    drawn = {(start, end) for start, end in re.findall(r"^\s*(\S+) --> (\w+)", diagram, re.MULTILINE)}
    # Any state may become these two, which the text below the diagram says.
    legal = {(start or "[*]", end) for start, ends in MOVES.items() for end in ends - {"broken", "gone"}}
    assert drawn == legal
    assert "Any state may become `broken` or `gone`" in PAGE.text
