"""`docs/reference/benchmarks.md` has all tables that `make bench` makes, with their rows, columns and goals."""

import re

import pytest

from bench.figures import figures
from bench.report import TITLES, Grid, Result, grids
from bench.targets import DIRECT, TARGETS
from tests.docs.pages import page
from tests.integration.bench.samples import all_samples

SAMPLES = all_samples(1)
GRIDS = {grid.title: grid for grid in grids(Result(conditions={}, figures=figures(SAMPLES), samples=SAMPLES))}
ELSEWHERE = "TTFT on a kept-alive connection, ms"
"""Of no cell."""


def _result() -> dict[str, Grid]:
    text = page("docs/reference/benchmarks.md").text
    section = re.split(r"^## ", text.partition("\n## Result\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    tables = {}
    for part in section.split("\n### ")[1:]:
        title, _, rest = part.partition("\n")
        lines = [tuple(c.strip() for c in row.split("|")[1:-1]) for row in rest.splitlines() if row.startswith("|")]
        tables[title] = Grid(title, lines[0], tuple(lines[2:]))
    return tables


def test_the_page_has_the_tables_of_a_run_in_order() -> None:
    assert list(_result()) == ["Goals", *TITLES.values()]


@pytest.mark.parametrize("title", ["Not streamed", "Streamed: cost", "Streamed: latency"])
def test_a_table_has_every_target_and_every_figure(title: str) -> None:
    check_nodelay = _result()[title]
    assert tuple(heading for heading in check_nodelay.headings if heading != ELSEWHERE) == GRIDS[title].headings
    assert [row[0] for row in check_nodelay.rows] == list(TARGETS)


def test_the_memory_table_has_every_process() -> None:
    assert [row[0] for row in _result()["Memory"].rows] == [target for target in TARGETS if target != DIRECT]


def test_the_goals_are_those_of_a_run_and_each_shows_whether_it_is_met() -> None:
    check_nodelay = _result()["Goals"]
    assert check_nodelay.headings == GRIDS["Goals"].headings
    goals = {row[0]: (row[3], row[5]) for row in check_nodelay.rows}
    assert {row[0]: (row[3], row[5]) for row in GRIDS["Goals"].rows}.items() <= goals.items()
    for row in check_nodelay.rows:
        value, at_most = float(row[1].strip(" !").replace(",", "")), float(row[3])
        # The value is rounded: at the goal itself it may be either.
        assert row[4].startswith("no") or value <= at_most
        assert row[4] == "yes" or value >= at_most
    held = {name for name in goals if " held" in name}
    assert len(held) == 4
    assert held <= {row[0] for row in _result()["Held and released"].rows}
