"""Replicas, disruption budgets, spread, probes and autoscaling."""

import re
from collections.abc import Iterator
from functools import cache

from tests.deploy.manifests import Document, Manifests, Workload, place_of
from tests.docs.pages import page, quoted

ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
SHARED_FIGURES = {"spot_meter_backlog"}
"""Every replica reports the same number: more pods would not make it smaller."""
LONGEST_START_SECONDS = 60


@cache
def known_metrics() -> set[str]:
    return {quoted(cells[0])[0] for cells in page("docs/reference/metrics.md").rows("## Metrics")}


def availability(manifests: Manifests) -> list[str]:
    """Return what a drained node, a lost zone or a slow start would take down."""
    faults: list[str] = []
    for workload in manifests.workloads:
        if workload.kind in ("Deployment", "StatefulSet"):
            faults += (f"{workload.place}: {fault}" for fault in _service_faults(manifests, workload))
    return faults


def _service_faults(manifests: Manifests, workload: Workload) -> Iterator[str]:
    budgets = [b for b in manifests.of("PodDisruptionBudget") if _protects(b, workload)]
    if len(budgets) != 1 or budgets[0]["spec"].get("maxUnavailable") != 1:
        yield "needs one PodDisruptionBudget with maxUnavailable 1: more breaks it, less blocks a node's drain"
    replicas = workload.spec.get("replicas")
    spread = [s["topologyKey"] for s in workload.pod.get("topologySpreadConstraints", [])]
    if replicas != 1 and spread != [ZONE, HOST]:
        yield "has to be spread over zones and nodes"
    for container in workload.containers:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe not in container:
                yield f"{container['name']} has no {probe}"
        start = container.get("startupProbe", {})
        if start.get("periodSeconds", 10) * start.get("failureThreshold", 3) < LONGEST_START_SECONDS:
            yield f"startupProbe ends a start after less than {LONGEST_START_SECONDS} s"
        live = container.get("livenessProbe", {})
        if live.get("periodSeconds", 10) * live.get("failureThreshold", 3) < LONGEST_START_SECONDS:
            yield f"livenessProbe kills a process that is busy for less than {LONGEST_START_SECONDS} s"
    if workload.kind == "StatefulSet":
        policy = workload.spec.get("persistentVolumeClaimRetentionPolicy", {})
        if "Delete" in policy.values():
            yield "its volumes have to be retained: they may hold what exists nowhere else"


def _protects(budget: Document, workload: Workload) -> bool:
    labels = budget["spec"].get("selector", {}).get("matchLabels")
    return labels is not None and labels.items() <= workload.labels.items()


def scaling(manifests: Manifests) -> list[str]:
    """Return autoscalers that ask for what does not exist, or fight with a number in the manifest."""
    faults: list[str] = []
    for scaler in manifests.of("HorizontalPodAutoscaler", "ScaledObject"):
        faults += (f"{place_of(scaler)}: {fault}" for fault in _scaler_faults(manifests, scaler))
    scaled = {s["spec"]["scaleTargetRef"]["name"] for s in manifests.of("HorizontalPodAutoscaler", "ScaledObject")}
    for workload in manifests.workloads:
        is_scaled = workload.document["metadata"]["name"] in scaled
        if workload.kind in ("Deployment", "StatefulSet") and ("replicas" in workload.spec) == is_scaled:
            faults.append(f"{workload.place}: replicas belong either to it or to its autoscaler")
    return faults


def _scaler_faults(manifests: Manifests, scaler: Document) -> Iterator[str]:
    spec = scaler["spec"]
    least, most = (spec.get(f"{bound}{kind}") for bound, kind in zip(("min", "max"), _bounds(scaler), strict=True))
    if not (least and most and 2 <= least <= most):
        yield f"from {least} to {most} replicas: at least 2, so that one can drain"
    named = set(re.findall(r"spot_[a-z_]+", str(spec)))
    yield from (f"there is no metric {name}" for name in sorted(named - known_metrics()))
    for metric in spec.get("metrics", []):
        if metric["type"] == "Pods" and metric["pods"]["metric"]["name"] in SHARED_FIGURES:
            yield f"{metric['pods']['metric']['name']} is the same on every replica: ask for it as External"
    for trigger in spec.get("triggers", []):
        selects = f'{{namespace="{scaler["metadata"]["namespace"]}"}}'
        if trigger["type"] == "prometheus" and selects not in trigger["metadata"]["query"]:
            yield f"{trigger['metadata']['query']} counts other installations too: select {selects}"
        host = trigger["metadata"].get("natsServerMonitoringEndpoint", "").partition(":")[0]
        service, _, namespace = host.partition(".")
        if host and (namespace != scaler["metadata"]["namespace"] or manifests.find("Service", service) is None):
            yield f"{host} is no Service with its namespace, and KEDA asks from a namespace of its own"
    behavior = spec.get("behavior") or spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior")
    grace = manifests.workload(spec["scaleTargetRef"]["name"]).pod["terminationGracePeriodSeconds"]
    down = (behavior or {}).get("scaleDown", {})
    if down.get("stabilizationWindowSeconds", 0) < grace:
        yield f"scales down within less than the {grace} s that a pod drains"


def _bounds(scaler: Document) -> tuple[str, str]:
    is_keda = scaler["kind"] == "ScaledObject"
    return ("ReplicaCount", "ReplicaCount") if is_keda else ("Replicas", "Replicas")
