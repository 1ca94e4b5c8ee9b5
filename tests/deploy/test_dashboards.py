"""The dashboards and the operator's objects: committed as rendered, and made of what exists."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from deploy.observability.__main__ import ROOT, rendered
from deploy.observability.boards import BOARDS
from deploy.observability.charts import Board
from tests.deploy.expressions import Expression
from tests.deploy.rule_files import RuleFile, groups
from tests.kit.service_metrics import sample_labels

EACH_BOARD = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS.keys())


@pytest.fixture
async def labels(tmp_path: Path) -> Mapping[str, frozenset[str]]:
    """The labels of each metric that the services have."""
    return await sample_labels(tmp_path)


def expression_of(text: str) -> Expression:
    return Expression(text.replace("$__rate_interval", "5m"))


@pytest.mark.parametrize("path", rendered(), ids=lambda path: path.name)
def test_a_rendered_file_is_current(path: Path) -> None:
    assert path.read_text("utf-8") == rendered()[path], "run `make observability`"


def test_no_other_file_lies_among_the_dashboards() -> None:
    assert set((ROOT / "dashboards").iterdir()) <= rendered().keys()


@EACH_BOARD
async def test_every_metric_and_label_of_a_chart_exists(board: Board, labels: Mapping[str, frozenset[str]]) -> None:
    faults = {
        f"{chart.title}: {expression}": list(expression_of(expression).faults(labels))
        for chart in board.charts
        for expression in chart.lines.values()
    }
    assert {place: wrong for place, wrong in faults.items() if wrong} == {}


@EACH_BOARD
def test_every_label_of_a_legend_is_one_that_the_expression_keeps(board: Board) -> None:
    for chart in board.charts:
        for legend, expression in chart.lines.items():
            assert set(re.findall(r"{{(\w+)}}", legend)) <= expression_of(expression).grouping, chart.title


@EACH_BOARD
def test_every_expression_is_of_the_chosen_namespaces(board: Board) -> None:
    """Otherwise a figure would be of all installations that one Prometheus scrapes."""
    selectors = [s for c in board.charts for e in c.lines.values() for s in expression_of(e).selectors]
    assert [s.metric for s in selectors if ("namespace", "$namespace") not in s.matchers] == []


@EACH_BOARD
def test_ids_are_unique_and_no_datasource_is_named(board: Board) -> None:
    dashboard = json.loads(board.render())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert {p["datasource"]["uid"] for p in dashboard["panels"] if "datasource" in p} == {"${datasource}"}
    assert [p["title"] for p in dashboard["panels"] if p["type"] != "row" and not p["targets"]] == []
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in dashboard["panels"]]
    assert len(places) == len(set(places))


def test_uids_are_those_that_links_have() -> None:
    """They are in addresses that people have kept."""
    uids = {name: board.uid for name, board in BOARDS.items()}
    assert uids == {
        "service": "spotinference-service",
        "fleet": "spotinference-fleet",
        "money": "spotinference-money",
    }


def test_the_operators_objects_have_every_rule() -> None:
    documents = (ROOT / "prometheusrules.yaml").read_text("utf-8").split("\n---\n")
    objects = [msgspec.yaml.decode(document) for document in documents]
    assert {item["kind"] for item in objects} == {"PrometheusRule"}
    specs = [msgspec.convert(item["spec"], RuleFile) for item in objects]
    assert [group for spec in specs for group in spec.groups] == groups()
