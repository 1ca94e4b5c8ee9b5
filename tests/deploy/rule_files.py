"""The alerting rules and their promtool tests as they lie on disk."""

from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "observability" / "rules"
RULE_TESTS = Path(__file__).parent / "alerts"


class Annotations(msgspec.Struct, forbid_unknown_fields=True):
    summary: str
    description: str
    runbook_url: str


class Alert(msgspec.Struct, forbid_unknown_fields=True, rename={"name": "alert", "hold": "for"}):
    name: str
    expr: str
    labels: dict[str, str]
    annotations: Annotations
    hold: str = "0s"

    @property
    def identity(self) -> tuple[str, str]:
        """Its name, and the service where several rules share a name."""
        return self.name, self.labels.get("service", "")


class Group(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    rules: list[Alert]


class RuleFile(msgspec.Struct, forbid_unknown_fields=True):
    groups: list[Group]


class ExpectedAlert(msgspec.Struct, forbid_unknown_fields=True):
    exp_labels: dict[str, str]


class AlertTest(msgspec.Struct, forbid_unknown_fields=True):
    eval_time: str
    alertname: str
    exp_alerts: list[ExpectedAlert]


class Case(msgspec.Struct):
    name: str
    alert_rule_test: list[AlertTest]


class AlertTestFile(msgspec.Struct):
    tests: list[Case]


def rule_paths() -> list[Path]:
    return sorted(RULES.glob("*.yml"))


def groups() -> list[Group]:
    files = (msgspec.yaml.decode(path.read_bytes(), type=RuleFile) for path in rule_paths())
    return [group for file in files for group in file.groups]


def alerts() -> list[Alert]:
    return [rule for group in groups() for rule in group.rules]


def alert_tests() -> list[AlertTest]:
    files = (msgspec.yaml.decode(path.read_bytes(), type=AlertTestFile) for path in sorted(RULE_TESTS.glob("*.yml")))
    return [test for file in files for case in file.tests for test in case.alert_rule_test]
