"""Names that the API server accepts, and selectors that find what they mean."""

import re
from collections import Counter
from collections.abc import Iterator

from tests.deploy.manifests import NAME, PART_OF, Document, Manifests, Workload, place_of

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1123, which no schema has."""
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LONGEST_WORKLOAD = 52
"""What a pod's name adds has to fit into a label of 63 characters."""
CLUSTER_WIDE = {"Namespace", "PriorityClass"}
PROJECT = "spotinference"
EVERY_POD = "default-deny"


def names(manifests: Manifests) -> list[str]:
    """Return names that are too long, malformed or used twice, and objects of another namespace."""
    faults = []
    places = Counter(map(place_of, manifests.documents))
    faults += [f"{place}: {count} documents have this name" for place, count in places.items() if count > 1]
    (namespace,) = (d["metadata"]["name"] for d in manifests.of("Namespace"))
    for document in manifests.documents:
        name, own = document["metadata"]["name"], document["metadata"].get("namespace")
        if not SUBDOMAIN.fullmatch(name) or len(name) > 253:
            faults.append(f"{place_of(document)}: its name is no DNS name")
        if document["kind"] not in CLUSTER_WIDE and own != namespace:
            faults.append(f"{place_of(document)}: is in namespace {own}, not {namespace}")
        if document["metadata"].get("labels", {}).get(PART_OF) != PROJECT:
            faults.append(f"{place_of(document)}: needs the label {PART_OF}: {PROJECT}")
        if document["kind"] == "Service" and not LABEL.fullmatch(name):
            faults.append(f"{place_of(document)}: its name is no label of a DNS name")
    for workload in manifests.workloads:
        name = workload.document["metadata"]["name"]
        if not LABEL.fullmatch(name) or len(name) > LONGEST_WORKLOAD:
            faults.append(
                f"{workload.place}: the names of its pods need a name of at most {LONGEST_WORKLOAD} a-z 0-9 -"
            )
        inner = [*workload.volumes, *workload.ports, *(c["name"] for c in workload.containers)]
        faults += [f"{workload.place}: {part!r} is no name" for part in inner if not LABEL.fullmatch(part)]
        ports = [p["name"] for c in workload.containers for p in c.get("ports", [])]
        faults += [f"{workload.place}: port {p!r} has more than 15 characters" for p in ports if len(p) > 15]
    return faults


def selectors(manifests: Manifests) -> list[str]:
    """Return selectors that find nothing, something else, or everything."""
    faults: list[str] = []
    for workload in manifests.workloads:
        faults += (f"{workload.place}: {fault}" for fault in _workload_faults(workload))
    for document in manifests.of("Service", "PodDisruptionBudget"):
        selector = document["spec"].get("selector", {})
        labels = selector.get("matchLabels", {}) if document["kind"] == "PodDisruptionBudget" else selector
        if set(labels) != {NAME, PART_OF} or len(manifests.selected(labels)) != 1:
            faults.append(
                f"{place_of(document)}: its selector {labels} finds {len(manifests.selected(labels))} workloads"
            )
    for policy in manifests.of("NetworkPolicy"):
        faults += (f"{place_of(policy)}: {fault}" for fault in _policy_faults(manifests, policy))
    for monitor in manifests.of("ServiceMonitor"):
        faults += (f"{place_of(monitor)}: {fault}" for fault in _monitor_faults(manifests, monitor))
    return faults


def _workload_faults(workload: Workload) -> Iterator[str]:
    if workload.labels.keys() & {NAME, PART_OF} != {NAME, PART_OF}:
        yield f"its pods need the labels {NAME} and {PART_OF}"
    own = {key: workload.labels.get(key) for key in (NAME, PART_OF)}
    if workload.kind in ("Deployment", "StatefulSet"):
        labels = workload.spec.get("selector", {}).get("matchLabels")
        if labels != own:
            yield f"its selector {labels} is not the labels of its pods {own}"
    for spread in workload.pod.get("topologySpreadConstraints", []):
        if spread["labelSelector"] != {"matchLabels": own}:
            yield f"the spread over {spread['topologyKey']} counts other pods than its own"


def _policy_faults(manifests: Manifests, policy: Document) -> Iterator[str]:
    is_default = policy["metadata"]["name"] == EVERY_POD
    if (policy["spec"]["podSelector"] == {}) != is_default:
        yield f"only {EVERY_POD} has an empty podSelector, which means every pod"
    for selector in pod_selectors(policy):
        if selector != {} and not matching(manifests, selector):
            yield f"the selector {selector} finds no pod"
    if is_default and set(policy["spec"].get("policyTypes", ())) != {"Ingress", "Egress"}:
        yield "has to deny both directions"


def pod_selectors(policy: Document) -> Iterator[Document]:
    """Yield the selectors of pods of this namespace: the policy's own and its peers'."""
    yield policy["spec"]["podSelector"]
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for rule in policy["spec"].get(direction, []):
            for peer in rule.get(side, []):
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    yield peer["podSelector"]


def matching(manifests: Manifests, selector: Document) -> list[Workload]:
    """Return the workloads whose pods a label selector finds."""
    workloads = manifests.selected(selector.get("matchLabels", {}))
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", "the only one in use"
        workloads = [w for w in workloads if w.labels.get(expression["key"]) in expression["values"]]
    return workloads


def _monitor_faults(manifests: Manifests, monitor: Document) -> Iterator[str]:
    labels = monitor["spec"]["selector"]["matchLabels"]
    services = [s for s in manifests.of("Service") if labels.items() <= s["metadata"]["labels"].items()]
    for endpoint in monitor["spec"]["endpoints"]:
        scraped = [s["spec"]["selector"][NAME] for s in services if _has_port(s, endpoint["port"])]
        served = [w.service for w in manifests.workloads if endpoint["port"] in w.ports]
        if sorted(scraped) != sorted(served):
            yield f"port {endpoint['port']!r} is scraped of {sorted(scraped)}, served by {sorted(served)}"


def _has_port(service: Document, name: str) -> bool:
    return any(port["name"] == name for port in service["spec"]["ports"])
