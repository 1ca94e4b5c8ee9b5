"""The manifests of `deploy/k8s` as kubectl renders them, and what the rules ask of them."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from shared.config.load import parse
from shared.config.sections import Config

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
NAME, PART_OF = "app.kubernetes.io/name", "app.kubernetes.io/part-of"
SETUP, REAPER, BUS = "setup", "reaper", "nats"
CONFIG_FILE = "spotinference.toml"
RENDERED = {
    **{name: K8S / "overlays" / name for name in ("local", "staging", "production")},
    "keda": ROOT / "tests" / "deploy" / "keda",
}
"""What is checked: each overlay, and one that has the components that no overlay has."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """A Deployment, StatefulSet, Job or CronJob."""

    document: Document

    @property
    def kind(self) -> str:
        return str(self.document["kind"])

    @property
    def place(self) -> str:
        return place_of(self.document)

    @property
    def spec(self) -> Document:
        spec: Document = self.document["spec"]
        return spec["jobTemplate"]["spec"] if self.kind == "CronJob" else spec

    @property
    def template(self) -> Document:
        template: Document = self.spec["template"]
        return template

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template.get("metadata", {}).get("labels", {})
        return labels

    @property
    def service(self) -> str:
        """The label that selectors find it by: `gateway`, `nats`."""
        return self.labels.get(NAME, "")

    @property
    def pod(self) -> Document:
        pod: Document = self.template["spec"]
        return pod

    @property
    def containers(self) -> list[Document]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def volumes(self) -> dict[str, Document]:
        """By name, with those of its claims."""
        claims = {c["metadata"]["name"]: {"claim": c} for c in self.spec.get("volumeClaimTemplates", [])}
        return {volume["name"]: volume for volume in self.pod.get("volumes", [])} | claims

    @property
    def ports(self) -> dict[str, int]:
        return {p["name"]: p["containerPort"] for c in self.containers for p in c.get("ports", [])}


@dataclass(frozen=True)
class Manifests:
    """All documents of one overlay."""

    overlay: str
    documents: list[Document]

    def of(self, *kinds: str) -> list[Document]:
        return [d for d in self.documents if d["kind"] in kinds]

    def find(self, kind: str, name: str) -> Document | None:
        return next((d for d in self.of(kind) if d["metadata"]["name"] == name), None)

    @cached_property
    def workloads(self) -> list[Workload]:
        return [Workload(d) for d in self.of("Deployment", "StatefulSet", "Job", "CronJob")]

    def workload(self, service: str) -> Workload:
        return next(w for w in self.workloads if w.service == service)

    def has_workload(self, service: str) -> bool:
        return any(w.service == service for w in self.workloads)

    def selected(self, labels: Mapping[str, str]) -> list[Workload]:
        return [w for w in self.workloads if labels.items() <= w.labels.items()]

    @property
    def config_text(self) -> str:
        """The configuration of the services."""
        return next(
            str(d["data"][CONFIG_FILE])
            for d in self.of("ConfigMap")
            if CONFIG_FILE in d["data"] and not d["metadata"]["name"].startswith("spotinference-setup")
        )

    @cached_property
    def config(self) -> Config:
        return parse(self.config_text, CONFIG_FILE)

    @property
    def bus_files(self) -> dict[str, str]:
        """The NATS servers' configuration."""
        files: dict[str, str] = next(d["data"] for d in self.of("ConfigMap") if "nats.conf" in d["data"])
        return files


def place_of(document: Document) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def kubectl() -> Path:
    """The one of this environment: an older one on the PATH may render otherwise."""
    return Path(sys.executable).parent / "kubectl"


def render(folder: Path) -> str:
    command = [str(kubectl()), "kustomize", str(folder)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not rendered.stderr, rendered.stderr  # a field that the next version no longer has
    return rendered.stdout


@cache
def _rendered(name: str) -> str:
    return render(RENDERED[name])


def load(name: str) -> Manifests:
    """Return an overlay as it is rendered: documents of the caller's own, to change as it likes."""
    return Manifests(name, list(documents(_rendered(name))))


def documents(text: str) -> Iterator[Document]:
    yield from (document for document in yaml.load_all(text, yaml.CSafeLoader) if document)
