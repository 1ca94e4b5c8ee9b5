"""Everything that a document names exists: in the same manifests, or in the guide that says how to make it."""

from collections.abc import Iterator
from functools import cache

from tests.deploy.manifests import Document, Manifests, Workload, place_of
from tests.docs.pages import page, quoted

GUIDE = "docs/howto/deploy-on-kubernetes.md"


@cache
def documented_secrets() -> dict[str, set[str]]:
    """Return the Secrets that the guide has the operator make, with their keys."""
    return {quoted(cells[0])[0]: set(quoted(cells[1])) for cells in page(GUIDE).rows("## Secrets")}


def references(manifests: Manifests) -> list[str]:
    """Return names of ConfigMaps, Secrets, ServiceAccounts, volumes, Services, ports and targets that do not exist."""
    faults: list[str] = []
    for workload in manifests.workloads:
        faults += (f"{workload.place}: {fault}" for fault in _workload_faults(manifests, workload))
    for service in manifests.of("Service"):
        faults += (f"{place_of(service)}: {fault}" for fault in _service_faults(manifests, service))
    for document in manifests.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = document["spec"]["scaleTargetRef"]
        if target.get("apiVersion") != "apps/v1" or manifests.find(target["kind"], target["name"]) is None:
            faults.append(f"{place_of(document)}: its target {target} does not exist")
    for route in manifests.of("HTTPRoute"):
        faults += (f"{place_of(route)}: {fault}" for fault in _route_faults(manifests, route))
    for ingress in manifests.of("Ingress"):
        faults += (f"{place_of(ingress)}: {fault}" for fault in _ingress_faults(manifests, ingress))
    for certificate in manifests.of("Certificate"):
        issuer = certificate["spec"]["issuerRef"]
        if manifests.find(issuer["kind"], issuer["name"]) is None:
            faults.append(f"{place_of(certificate)}: its issuer {issuer['name']} does not exist")
    return faults


def _workload_faults(manifests: Manifests, workload: Workload) -> Iterator[str]:
    account = manifests.find("ServiceAccount", workload.pod.get("serviceAccountName", "default"))
    if account is None or account["metadata"]["name"] != workload.service:
        yield f"serviceAccountName has to be {workload.service}, and to exist"
    if manifests.find("PriorityClass", workload.pod.get("priorityClassName", "")) is None:
        yield f"there is no priority class {workload.pod.get('priorityClassName')!r}"
    for volume in workload.volumes.values():
        yield from _volume_faults(manifests, volume)
    mounted = set()
    for container in workload.containers:
        mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
        mounted |= mounts
        yield from (
            f"mounts the volume {name}, which does not exist" for name in sorted(mounts - set(workload.volumes))
        )
        yield from _probe_faults(workload, container)
    yield from (f"nothing mounts the volume {name}" for name in sorted(set(workload.volumes) - mounted))
    if workload.kind == "StatefulSet":
        service = manifests.find("Service", workload.spec.get("serviceName", ""))
        if service is None or service["spec"].get("clusterIP") != "None":
            yield f"serviceName {workload.spec.get('serviceName')!r} is no headless Service"


def _probe_faults(workload: Workload, container: Document) -> Iterator[str]:
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        port = container.get(probe, {}).get("httpGet", {}).get("port")
        if port is not None and port not in workload.ports:
            yield f"{probe}: port {port!r} is no port of the container"


def _volume_faults(manifests: Manifests, volume: Document) -> Iterator[str]:
    for source in [volume, *volume.get("projected", {}).get("sources", [])]:
        if "configMap" in source:
            name = source["configMap"]["name"]
            config = manifests.find("ConfigMap", name)
            if config is None:
                yield f"there is no ConfigMap {name}"
        if "secret" in source:
            secret = source["secret"]
            name = secret.get("secretName", secret.get("name"))
            keys = documented_secrets().get(name)
            if keys is None:
                yield f"{GUIDE} does not say how to make the Secret {name}"
            else:
                items = {item["key"] for item in secret.get("items", [])}
                yield from (f"Secret {name} has no key {key} in {GUIDE}" for key in sorted(items - keys))


def _service_faults(manifests: Manifests, service: Document) -> Iterator[str]:
    for workload in manifests.selected(service["spec"]["selector"]):
        for port in service["spec"]["ports"]:
            if port.get("targetPort") not in workload.ports:
                yield f"port {port['name']!r}: {workload.place} has no port named {port.get('targetPort')!r}"


def _ingress_faults(manifests: Manifests, ingress: Document) -> Iterator[str]:
    for rule in ingress["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            service = manifests.find("Service", backend["name"])
            names = [port["name"] for port in service["spec"]["ports"]] if service else []
            if backend["port"].get("name") not in names:
                yield f"there is no Service {backend['name']} with port {backend['port']}"


def _route_faults(manifests: Manifests, route: Document) -> Iterator[str]:
    backends = [backend for rule in route["spec"]["rules"] for backend in rule.get("backendRefs", [])]
    if backends and any("sectionName" not in parent for parent in route["spec"]["parentRefs"]):
        yield "without a sectionName it is served by plain http too, with keys and cookies in the clear"
    for rule in route["spec"]["rules"]:
        for backend in rule.get("backendRefs", []):
            service = manifests.find("Service", backend["name"])
            ports = [port["port"] for port in service["spec"]["ports"]] if service else []
            if backend["port"] not in ports:
                yield f"there is no Service {backend['name']} with port {backend['port']}"
            timeouts = rule.get("timeouts", {})
            if [timeouts.get(name) for name in ("request", "backendRequest")] != ["0s", "0s"]:
                yield "a timeout cuts requests that wait for a machine, and pages that are sent events: both are 0s"
