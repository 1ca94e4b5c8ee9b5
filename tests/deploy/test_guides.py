"""The guides: what they have the reader write is rendered and keeps the rules, what they have him type fits to it."""

import re
from pathlib import Path

import pytest

from services.gateway.core.endpoints import HEALTH
from services.site.adapters.http.server import KEEPALIVE_SECONDS
from tests.deploy.guides import CHECKOUT, EKS, FOLDER, KUBERNETES, kubectl_calls, render_overlay
from tests.deploy.manifests import ROOT, Manifests, documents
from tests.deploy.rules.every_rule import RULES
from tests.deploy.rules.immutable_fields import immutable_fields
from tests.deploy.rules.references import documented_secrets, references
from tests.deploy.rules.schemas import schemas
from tests.docs.pages import PAGES, page

GUIDES = [a_page.name for a_page in PAGES if any("kubectl" in block for block in a_page.blocks("sh"))]
HEALTH_CHECK = "alb.ingress.kubernetes.io/healthcheck-"
KINDS = {"job": "Job", "statefulset": "StatefulSet", "deployment": "Deployment", "service": "Service"}


@pytest.mark.parametrize("guide", [KUBERNETES, EKS])
def test_the_overlay_of_a_guide_keeps_the_rules(guide: str, tmp_path: Path) -> None:
    manifests = render_overlay(guide, tmp_path)
    for rule in RULES:
        if rule is not immutable_fields:  # recorded for the release's own overlays
            assert rule(manifests) == []


def named_objects(call: list[str]) -> list[tuple[str, str]]:
    """Return the objects that a call names as `kind/name`."""
    pairs = [word.partition("/") for word in call if not word.startswith("-")]
    return [(KINDS[kind], name) for kind, slash, name in pairs if slash and kind in KINDS]


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_name_what_the_manifests_have(guide: str, tmp_path: Path) -> None:
    manifests = render_overlay(KUBERNETES, tmp_path)
    for call in kubectl_calls(page(guide)):
        for kind, name in named_objects(call):
            assert manifests.find(kind, name) is not None, call
        if "exec" in call:
            workload, _, number = call[call.index("exec") + 1].rpartition("-")
            assert int(number) < manifests.workload(workload).spec["replicas"], call
        if "-f" in call:
            file = call[call.index("-f") + 1]
            is_shown = any(block.startswith(f"# {file}\n") for block in page(guide).blocks("yaml"))
            assert is_shown or file == "-" or (ROOT / file.removeprefix(f"{CHECKOUT}/")).is_file(), call
        if "-k" in call:
            folder = call[call.index("-k") + 1]
            assert folder == FOLDER or (ROOT / folder.removeprefix(f"{CHECKOUT}/")).is_dir(), call
        if "-l" in call:
            label, _, value = call[call.index("-l") + 1].partition("=")
            assert any(d["metadata"].get("labels", {}).get(label) == value for d in manifests.documents), call
        is_local = call[1] in ("apply", "create", "diff") and "-n" not in call
        assert is_local or call[1:3] == ["-n", namespace(manifests)], call


def test_an_ingress_of_another_port_is_reported(tmp_path: Path) -> None:
    manifests = render_overlay(EKS, tmp_path)
    (ingress,) = manifests.of("Ingress")
    ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"]["name"] = "web"
    assert [fault for fault in references(manifests) if "web" in fault] != []


def test_the_balancer_of_eks_gets_health_checks_that_aws_accepts_and_services_pass(tmp_path: Path) -> None:
    manifests = render_overlay(EKS, tmp_path)
    (ingress,) = manifests.of("Ingress")
    checks = {
        name.removeprefix(HEALTH_CHECK): value
        for name, value in ingress["metadata"]["annotations"].items()
        if name.startswith(HEALTH_CHECK)
    }
    assert int(checks["timeout-seconds"]) < int(checks["interval-seconds"])
    assert checks["path"] == HEALTH.path
    (idle_s,) = re.findall(r"idle_timeout.timeout_seconds=(\d+)", str(ingress["metadata"]["annotations"]))
    assert int(idle_s) < min(KEEPALIVE_SECONDS, manifests.config.gateway.keepalive_timeout)
    site = manifests.find("Service", "site")
    assert site is not None
    assert site["metadata"]["annotations"][f"{HEALTH_CHECK}path"] == "/", "the gateway's path is none of the site's"


def test_files_of_a_guide_fit_to_their_schemas() -> None:
    (storage,) = [block for block in page(EKS).blocks("yaml") if block.startswith("# storage.yaml")]
    assert schemas(Manifests(EKS, list(documents(storage)))) == []


def namespace(manifests: Manifests) -> str:
    (document,) = manifests.of("Namespace")
    return str(document["metadata"]["name"])


def created_secrets(guide: str) -> dict[str, set[str]]:
    """Return the Secrets that a guide has the reader create, with their keys."""
    created: dict[str, set[str]] = {}
    for call in kubectl_calls(page(guide)):
        if call[3:6] == ["create", "secret", "generic"]:
            files = [word.partition("=")[2] for word in call if word.startswith("--from-file=")]
            created[call[6]] = {file.partition("=")[0] if "=" in file else Path(file).name for file in files}
    return created


def test_the_guide_creates_every_secret_with_its_keys() -> None:
    documented = dict(documented_secrets())
    for name in ("nats-tls", "bus-reaper", "hyperstack-reaper"):
        del documented[name]  # of cert-manager and of a component that the example does not have
    documented["engine-keys"] = {"h100x2"}  # one for each tier of the example
    documented["sign-in"] = {"github-client-secret"}
    assert created_secrets(KUBERNETES) == documented
