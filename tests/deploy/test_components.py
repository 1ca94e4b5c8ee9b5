"""What the manifests bring along and no rule reads: policies of a cloud, values of an adapter, labels to apply by."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import K8S, NAME, RENDERED, SETUP, Manifests, load
from tests.deploy.rules.availability import known_metrics
from tests.deploy.rules.configuration import DATA_DIR
from tests.deploy.rules.images import RECIPE
from tests.docs.pages import page

EKS = K8S / "components" / "eks-identity"
ADAPTER = K8S / "components" / "autoscaling" / "prometheus-adapter.yaml"


def _policy(service: str) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = json.loads((EKS / f"{service}-policy.json").read_text("utf-8"))["Statement"]
    return statements


def _actions(service: str) -> set[str]:
    actions = [statement["Action"] for statement in _policy(service)]
    return {action for part in actions for action in ([part] if isinstance(part, str) else part)}


@pytest.mark.parametrize(("service", "cloud"), [("waker", "ec2"), ("billing", "s3")])
def test_a_role_has_the_actions_of_the_reference(service: str, cloud: str) -> None:
    described = re.findall(rf"`({cloud}:\w+)`", page("docs/reference/configuration.md").text)
    assert _actions(service) == set(described)


def test_the_reaper_may_stop_and_not_start() -> None:
    assert _actions("waker") - _actions("reaper") == {"ec2:StartInstances"}
    assert _actions("reaper") < _actions("waker")


def test_the_waker_may_start_and_stop_marked_machines_only() -> None:
    changing = [s for s in _policy("waker") if not str(s["Action"]).count("Describe")]
    assert len(changing) == 1
    assert changing[0]["Condition"] == {
        "StringEquals": {"aws:ResourceTag/spotinference:fleet": load("production").config.waker.fleet}
    }


def test_billing_reads_the_bucket_of_the_configuration() -> None:
    (source,) = load("production").config.billing.source
    bucket = source.url.removeprefix("s3://").partition("/")[0]
    assert {s["Resource"] for s in _policy("billing")} == {f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"}


def test_the_adapter_has_every_metric_that_the_autoscalers_ask_for() -> None:
    rules = yaml.safe_load(ADAPTER.read_text("utf-8"))["rules"]
    offered = {
        kind: [re.search(r'__name__=~?"([^"]+)"', rule["seriesQuery"]) for rule in rules[kind]]
        for kind in ("custom", "external")
    }
    for scaler in load("production").of("HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            kind = {"Pods": "custom", "External": "external"}.get(metric["type"])
            if kind is not None:
                name = metric[metric["type"].lower()]["metric"]["name"]
                assert any(match and re.fullmatch(match[1], name) for match in offered[kind]), name
                assert name in known_metrics()


@pytest.mark.parametrize("overlay", RENDERED)
def test_the_job_can_be_applied_by_its_label(overlay: str) -> None:
    manifests = load(overlay)
    job = manifests.workload(SETUP)
    needed = [("ServiceAccount", job.pod["serviceAccountName"]), ("ConfigMap", "spotinference-setup")]
    assert [_label(manifests, kind, name) for kind, name in needed] == [SETUP, SETUP]
    assert job.document["metadata"]["labels"][NAME] == SETUP


@pytest.mark.parametrize("overlay", RENDERED)
def test_the_configuration_can_be_applied_by_its_label(overlay: str) -> None:
    manifests = load(overlay)
    volumes = manifests.workload("gateway").volumes
    assert _label(manifests, "ConfigMap", volumes["config"]["configMap"]["name"]) == "config"


def _label(manifests: Manifests, kind: str, name: str) -> str:
    document = manifests.find(kind, name)
    assert document is not None
    return str(document["metadata"]["labels"][NAME])


def test_a_changed_configuration_has_another_name() -> None:
    names = {load(overlay).workload("gateway").volumes["config"]["configMap"]["name"] for overlay in RENDERED}
    assert len(names) == len(set(_texts()))


def _texts() -> list[str]:
    return [load(overlay).config_text for overlay in RENDERED]


def test_each_stage_of_the_recipe_has_a_name_of_its_own() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", RECIPE.read_text("utf-8"), re.MULTILINE)
    assert len(stages) == len(set(stages))


def test_temporary_files_are_on_the_volume() -> None:
    (run,) = re.findall(r"^FROM \S+ AS run\n(.*?)^FROM", RECIPE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert f" TMPDIR={DATA_DIR}\n" in run


def test_each_folder_of_the_base_is_listed() -> None:
    listed = yaml.safe_load((K8S / "base" / "kustomization.yaml").read_text("utf-8"))["resources"]
    folders = {path.name for path in (K8S / "base").iterdir() if path.is_dir()}
    assert {Path(name).name for name in listed if not name.endswith(".yaml")} == folders
