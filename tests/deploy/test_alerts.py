"""The alerts of `deploy/observability/rules`: each fires and stays silent as its tests say, and names what exists."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from tests.deploy.expressions import FOREIGN, Expression
from tests.deploy.rule_files import ROOT, RULE_TESTS, Alert, Group, alert_tests, alerts, groups, rule_paths
from tests.docs.pages import page
from tests.kit.debian import program
from tests.kit.service_metrics import sample_labels

EACH_FILE = pytest.mark.parametrize("path", rule_paths(), ids=lambda path: path.stem)
EACH_ALERT = pytest.mark.parametrize("alert", alerts(), ids=lambda alert: "-".join(filter(None, alert.identity)))
REFERENCE = page("docs/reference/alerts.md")


@pytest.fixture(scope="module")
def promtool() -> list[str]:
    return program("promtool", "prometheus")


@pytest.fixture
async def labels(tmp_path: Path) -> Mapping[str, frozenset[str]]:
    """The labels of each metric that the services have."""
    return await sample_labels(tmp_path)


def run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@EACH_FILE
def test_a_file_is_valid_for_prometheus(promtool: list[str], path: Path) -> None:
    run(*promtool, "check", "rules", path)


@EACH_FILE
def test_each_alert_fires_and_stays_silent(promtool: list[str], path: Path, tmp_path: Path) -> None:
    rules = msgspec.yaml.decode(path.read_bytes())
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]  # promtool would have each test repeat them
    (tmp_path / "rules.yml").write_bytes(msgspec.yaml.encode(rules))
    (tmp_path / "test.yml").write_bytes((RULE_TESTS / path.name).read_bytes())
    run(*promtool, "test", "rules", tmp_path / "test.yml")


def test_every_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    fires, silent = set(), set()
    for test in alert_tests():
        fires |= {(test.alertname, alert.exp_labels.get("service", "")) for alert in test.exp_alerts}
        silent |= set() if test.exp_alerts else {test.alertname}
    assert fires == {alert.identity for alert in alerts()}
    assert silent == {alert.name for alert in alerts()}


async def test_every_metric_and_label_in_an_alert_exists(labels: Mapping[str, frozenset[str]]) -> None:
    faults = {alert.name: list(Expression(alert.expr).faults(labels)) for alert in alerts()}
    assert {name: wrong for name, wrong in faults.items() if wrong} == {}


def test_every_value_that_an_alert_selects_is_one_of_the_code() -> None:
    sources = [p.read_text("utf-8") for room in ("services", "shared") for p in (ROOT / room).rglob("*.py")]
    literals = set(re.findall(r"[\"']([\w./{}-]+)[\"']", " ".join(sources)))
    selectors = [s for alert in alerts() for s in Expression(alert.expr).selectors if s.metric not in FOREIGN]
    values = {value for s in selectors for label, text in s.matchers for value in text.split("|") if label != "status"}
    assert values - literals == set()


@EACH_ALERT
def test_an_alert_has_a_severity_and_a_runbook(alert: Alert) -> None:
    assert alert.name.startswith("Spot")
    assert alert.labels["severity"] in ("page", "ticket")
    assert set(alert.labels) <= {"severity", "service"}
    assert re.fullmatch(r"docs/runbooks/[\w-]+\.md", alert.annotations.runbook_url)
    assert (ROOT / alert.annotations.runbook_url).is_file()


@EACH_ALERT
def test_an_alerts_texts_use_labels_that_it_has(alert: Alert) -> None:
    """A label that an expression sums away would be an empty word in the text, and so would one of the alert's own."""
    texts = msgspec.structs.astuple(alert.annotations)
    named = {name for text in texts for name in re.findall(r"\$labels\.(\w+)", text)}
    kept = Expression(alert.expr).grouping
    by_target = {"instance"} if "by (" not in alert.expr else set()
    assert named <= kept | by_target


@pytest.mark.parametrize("group", groups(), ids=lambda group: group.name)
def test_the_reference_has_every_alert(group: Group) -> None:
    rows = REFERENCE.rows(f"## {group.name.removeprefix('spotinference-').title()}")
    assert [(name, severity, runbook) for name, severity, _, runbook in rows] == [
        (reference_name(alert), alert.labels["severity"], reference_link(alert)) for alert in group.rules
    ]


def reference_name(alert: Alert) -> str:
    service = alert.labels.get("service")
    return f"`{alert.name}`, {service}" if service else f"`{alert.name}`"


def reference_link(alert: Alert) -> str:
    runbook = Path(alert.annotations.runbook_url)
    return f"[{runbook.stem}](../runbooks/{runbook.name})"


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("spot_meter_backlog > 0", None),
        ("spot_meter_backlogs > 0", "no metric spot_meter_backlogs"),
        ('rate(spot_gateway_answers_total{cod="x"}[5m])', "spot_gateway_answers_total has no label cod"),
        ("sum by (tier) (spot_meter_backlog)", "grouped by tier, which no metric of it has"),
        ("up and on (zone) spot_meter_backlog", "no metric up"),
    ],
)
async def test_an_expression_reports_what_does_not_exist(
    labels: Mapping[str, frozenset[str]], expression: str, fault: str | None
) -> None:
    assert next(Expression(expression).faults(labels), None) == fault
