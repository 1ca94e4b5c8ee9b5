"""Each rule finds what it is for: one change to what is rendered, and the words of what it reports."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.manifests import CONFIG_FILE, Document, Manifests, load
from tests.deploy.rules.availability import availability, scaling
from tests.deploy.rules.bus import HOST_NAME, bus
from tests.deploy.rules.code import SERVICES
from tests.deploy.rules.configuration import configuration, services
from tests.deploy.rules.every_rule import RULES, Rule
from tests.deploy.rules.images import images
from tests.deploy.rules.immutable_fields import immutable_fields
from tests.deploy.rules.network import network
from tests.deploy.rules.references import references
from tests.deploy.rules.resources import disks, grace, memory
from tests.deploy.rules.schemas import schemas
from tests.deploy.rules.security import cloud_identity, public_site, restricted, secrets_in_text
from tests.deploy.rules.selectors import names, selectors

GONE = object()
Change = Callable[[Manifests], None]


def put(place: str, path: str, value: Any) -> Change:
    """Set a field of `Kind name`, by a path such as `spec.ports.0.name`; `GONE` removes it."""

    def change(manifests: Manifests) -> None:
        kind, _, name = place.partition(" ")
        *parents, last = (int(part) if part.isdigit() else part for part in path.replace("\\.", "\0").split("."))
        node: Any = next(d for d in manifests.of(kind) if d["metadata"]["name"].startswith(name))
        for part in parents:
            node = node[part.replace("\0", ".") if isinstance(part, str) else part]
        last = last.replace("\0", ".") if isinstance(last, str) else last
        if value is GONE:
            del node[last]
        elif isinstance(node, list) and last == len(node):
            node.append(value)
        else:
            node[last] = value

    return change


def pod(workload: str, path: str, value: Any) -> Change:
    return put(workload, f"spec.template.spec.{path}", value)


def container(workload: str, path: str, value: Any) -> Change:
    return pod(workload, f"containers.0.{path}", value)


def text(file: str, old: str, new: str) -> Change:
    """Replace words in every ConfigMap that has the file."""

    def change(manifests: Manifests) -> None:
        files: list[Document] = [d["data"] for d in manifests.of("ConfigMap") if file in d["data"]]
        assert all(old in data[file] for data in files)
        for data in files:
            data[file] = data[file].replace(old, new)

    return change


def config(old: str, new: str) -> Change:
    return text(CONFIG_FILE, old, new)


def policy(name: str, path: str, value: Any) -> Change:
    return put(f"NetworkPolicy {name}", f"spec.{path}", value)


def without(kind: str, name: str) -> Change:
    def change(manifests: Manifests) -> None:
        manifests.documents[:] = [
            d for d in manifests.documents if not (d["kind"] == kind and d["metadata"]["name"].startswith(name))
        ]

    return change


CRON = "spec.jobTemplate.spec.template.spec"
HPA = "HorizontalPodAutoscaler"
GATEWAY, WAKER, METER = "StatefulSet gateway", "Deployment waker", "Deployment meter"
BILLING, SITE, NATS, JOB = "Deployment billing", "Deployment site", "StatefulSet nats", "Job setup-"
PROBE = "livenessProbe.httpGet"
OPEN = {
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "meter", "app.kubernetes.io/part-of": "spotinference"}}
}

CHANGES: list[tuple[Rule, Change, str]] = [
    (schemas, pod(GATEWAY, "terminationGracePeriod", 595), "terminationGracePeriod"),
    (schemas, container(GATEWAY, "ports.0.containerPort", "http"), "is not"),
    (schemas, put("Service gateway", "apiVersion", "v2"), "unknown to Kubernetes"),
    (schemas, put("Certificate nats", "spec.dnsName", ["nats"]), "unknown field `dnsName`"),
    (schemas, put("Certificate nats", "spec.duration", "1 year"), "regex"),
    (schemas, put("HTTPRoute gateway", "spec.rules.0.backendRefs.0.port", 0), "spec.rules[0].backendRefs[0].port"),
    (schemas, put("ServiceMonitor spotinference", "spec.endpoints", []), "length >= 1"),
    (names, put("Service gateway", "metadata.name", "Gateway"), "no DNS name"),
    (names, put("Service gateway", "metadata.name", "waker"), "2 documents"),
    (names, put("Service gateway", "metadata.namespace", GONE), "namespace None"),
    (names, put("Service gateway", "metadata.labels", {}), "needs the label"),
    (names, put(BILLING, "metadata.name", "billing" * 9), "at most 52"),
    (names, container(GATEWAY, "ports.1.name", "metrics-of-the-gateway"), "more than 15"),
    (selectors, put("Service gateway", "spec.selector", {"app": "gateway"}), "finds 0"),
    (selectors, put("PodDisruptionBudget waker", "spec.selector", GONE), "selector {} finds"),
    (selectors, put(METER, "spec.selector.matchLabels.app\\.kubernetes\\.io/name", "meters"), "not the labels"),
    (selectors, pod(NATS, "topologySpreadConstraints.0.labelSelector", {}), "other pods"),
    (selectors, put("NetworkPolicy waker", "spec.podSelector", {}), "every pod"),
    (selectors, put("NetworkPolicy waker", "spec.podSelector.matchLabels", {"app": "waker"}), "finds no pod"),
    (selectors, put("NetworkPolicy default-deny", "spec.policyTypes", ["Ingress"]), "both directions"),
    (selectors, put("Service waker", "spec.ports.0.name", "pages"), "is scraped of"),
    (references, pod(WAKER, "serviceAccountName", "default"), "serviceAccountName"),
    (references, pod(WAKER, "priorityClassName", "urgent"), "no priority class"),
    (references, pod(WAKER, "volumes.0.configMap.name", "spotinference"), "no ConfigMap"),
    (references, pod(BILLING, "volumes.2.secret.secretName", "databases"), "does not say how"),
    (references, pod(BILLING, "volumes.1.projected.sources.0.secret.items.0.key", "waker.nk"), "no key waker.nk"),
    (references, container(METER, "volumeMounts.0.name", "disk"), "does not exist"),
    (references, container(METER, f"{PROBE}.port", "pages"), "no port of the container"),
    (references, put(GATEWAY, "spec.serviceName", "gateway"), "no headless Service"),
    (references, put("Service gateway", "spec.ports.0.targetPort", "web"), "no port named"),
    (references, put("HorizontalPodAutoscaler meter", "spec.scaleTargetRef.kind", "StatefulSet"), "does not exist"),
    (references, put("HorizontalPodAutoscaler meter", "spec.scaleTargetRef.apiVersion", ""), "does not exist"),
    (references, put("HTTPRoute gateway", "spec.rules.0.backendRefs.0.port", 8080), "port 8080"),
    (references, put("HTTPRoute gateway", "spec.rules.0.timeouts.request", "15s"), "cuts requests"),
    (references, put("HTTPRoute site", "spec.rules.0.timeouts", GONE), "sent events"),
    (references, put("HTTPRoute site", "spec.parentRefs.0.sectionName", GONE), "in the clear"),
    (references, put("Certificate nats", "spec.issuerRef.name", "ca"), "issuer ca"),
    (images, container(GATEWAY, "image", "spotinference/gateway:latest"), "not pinned"),
    (images, container(GATEWAY, "image", "spotinference/gateway"), "not pinned"),
    (images, container(GATEWAY, "image", "spotinference/gateway:0.0.9"), "not version"),
    (images, container(NATS, "image", "nats:2.10.0"), "not version"),
    (images, container(WAKER, "image", "spotinference/wakers:0.1.0"), "no target"),
    (images, put(JOB, "metadata.name", "setup-0-0-9"), "its name has to be"),
    (immutable_fields, put(GATEWAY, "spec.podManagementPolicy", "OrderedReady"), "cannot be changed"),
    (immutable_fields, put(METER, "spec.selector.matchLabels.version", "2"), "cannot be changed"),
    (immutable_fields, container(JOB, "resources.limits.memory", "1Gi"), "another template"),
    (immutable_fields, put(JOB, "metadata.name", "setup-0-2-0"), "record it"),
    (restricted, put("Namespace spotinference", "metadata.labels", {}), "has to be restricted"),
    (restricted, pod(WAKER, "securityContext.runAsNonRoot", GONE), "runAsNonRoot"),
    (restricted, pod(WAKER, "securityContext.runAsUser", 0), "runAsUser"),
    (restricted, pod(WAKER, "securityContext.seccompProfile", GONE), "seccompProfile"),
    (restricted, pod(WAKER, "hostNetwork", True), "hostNetwork"),
    (restricted, pod(WAKER, "automountServiceAccountToken", True), "automountServiceAccountToken"),
    (restricted, pod(WAKER, "volumes.0", {"name": "config", "hostPath": {"path": "/"}}), "not allowed"),
    (restricted, container(WAKER, "securityContext.capabilities", {"drop": ["ALL"], "add": ["NET_RAW"]}), "dropped"),
    (restricted, container(WAKER, "securityContext.readOnlyRootFilesystem", False), "readOnlyRootFilesystem"),
    (restricted, container(WAKER, "securityContext.allowPrivilegeEscalation", GONE), "allowPrivilegeEscalation"),
    (restricted, container(GATEWAY, "ports.0.hostPort", 80), "hostPort"),
    (restricted, pod(WAKER, "initContainers", [{"name": "i", "image": "i:1"}]), "i: allowPrivilegeEscalation"),
    (restricted, put("ServiceAccount waker", "automountServiceAccountToken", GONE), "nothing calls the API"),
    (cloud_identity, container(METER, "env", [{"name": "AWS_ACCESS_KEY_ID", "value": "x"}]), "cloud's credentials"),
    (cloud_identity, put("ServiceAccount meter", "metadata.annotations", {"eks.amazonaws.com/role-arn": "a"}), "role"),
    (cloud_identity, put("CronJob reaper", f"{CRON}.volumes.3.secret.secretName", "hyperstack"), "one loss takes both"),
    (public_site, pod(SITE, "volumes.2.secret.secretName", "database"), "Secret database of another service"),
    (public_site, pod(METER, "volumes.2.secret.secretName", "database-site"), "Secret database-site of another"),
    (secrets_in_text, container(WAKER, "env.0", {"name": "HYPERSTACK_API_KEY", "value": "k"}), "has its value"),
    (secrets_in_text, put("ConfigMap nats", "kind", "Secret"), "does not belong"),
    (services, without("Deployment", "waker"), "waker: has no workload"),
    (services, container(WAKER, "command", ["python3", "-m", "services.meter"]), "has to run"),
    (configuration, config("fleet =", "flock ="), 'unknown key "flock"'),
    (configuration, config("10.30.4.11:8000", "10.30.4.11:8000/v1"), "endpoint"),
    (configuration, put("ConfigMap spotinference-setup", "data.spotinference\\.toml", ""), "different"),
    (configuration, container(WAKER, "args.1", "/etc/spotinference.toml"), "--config names"),
    (configuration, container(WAKER, "args.3", "/tmp"), "has to be writable"),
    (configuration, container(WAKER, "volumeMounts.1.readOnly", False), "has to be writable"),
    (configuration, container(WAKER, "env.0.name", "HYPERSTACK_KEY"), "nothing reads"),
    (configuration, container(WAKER, "env.0.value", "/etc/key"), "names /etc/key"),
    (configuration, container(WAKER, "ports.0.containerPort", 9091), "container's port is 9091"),
    (configuration, config("[gateway]\nhost", "[gateway]\nport = 8081\nhost"), "port = 8081"),
    (configuration, config('[gateway]\nhost = "*"', "[gateway]"), "requests come from"),
    (configuration, config('[waker]\nmetrics_host = "*"', "[waker]"), "probes come from"),
    (configuration, config("[gateway]\n", "[gateway]\nworkers = 2\n"), "add replicas"),
    (configuration, config("bus/{user}.nk", "bus/{user}.key"), "bus.nkey_file names"),
    (configuration, config("database/url", "postgres/url"), "database.url_file names"),
    (configuration, config("engine-keys/h100x2-spot", "keys/h100x2-spot"), "key_file names"),
    (configuration, pod(GATEWAY, "volumes.1.projected.sources.1", {"configMap": {"name": "x"}}), "bus.ca_file names"),
    (configuration, config("nats-1.nats-nodes", "nats-1.nats-pods"), "no Service"),
    (configuration, config("tls://nats-1", "nats://nats-1"), "speak TLS"),
    (configuration, config('"tls://nats-1.nats-nodes:4222", ', ""), "each of the 3"),
    (configuration, config("replicas = 3", "replicas = 1"), "replicas = 1"),
    (configuration, config("nkey_file", "creds_file"), "needs nkey_file"),
    (configuration, pod(WAKER, "containers.0.env", []), "belongs with [provider.hyperstack]"),
    (configuration, without("NetworkPolicy", "pod-identity"), "component eks-identity"),
    (configuration, container(SITE, "env", []), "needs GITHUB_CLIENT_SECRET_FILE"),
    (configuration, container(SITE, "env.0.value", "/etc/secret"), "names /etc/secret"),
    (configuration, config("[site.github]\nclient_id", "# client_id"), "sign-in belongs with"),
    (configuration, config("trusted_proxies", "# trusted_proxies"), "count as the balancer's"),
    (configuration, config("cors_origins", "# cors_origins"), "refuse the playground"),
    (grace, pod(GATEWAY, "terminationGracePeriodSeconds", 30), "the drain takes 595"),
    (grace, pod(GATEWAY, "containers.0.lifecycle", {"preStop": {"sleep": {"seconds": 15}}}), "the drain takes 610"),
    (grace, config('drain_grace = "570s"', 'drain_grace = "10m"'), "autoscaler waits 600"),
    (grace, config('drain_delay = "15s"', 'drain_delay = "0s"'), "needs drain_delay"),
    (grace, container(SITE, "lifecycle", GONE), "preStop sleep"),
    (grace, pod(NATS, "terminationGracePeriodSeconds", 30), "lame_duck_duration"),
    (memory, container(WAKER, "resources.limits", GONE), "a limit of memory"),
    (memory, container(WAKER, "resources.limits.cpu", "1"), "memory alone"),
    (memory, container(WAKER, "resources.requests.memory", "1Gi"), "more memory than its limit"),
    (memory, config("[gateway]\n", "[gateway]\nmax_buffered_bytes = 1073741824\n"), "may buffer"),
    (memory, container(GATEWAY, "resources.limits.memory", "512Mi"), "fewer than 8 bodies"),
    (memory, container(BILLING, "resources.limits.memory", "1Gi"), "an import alone"),
    (memory, container(NATS, "env.1.value", "2GiB"), "GOMEMLIMIT"),
    (disks, container(WAKER, "resources.requests.ephemeral-storage", GONE), "first to be evicted"),
    (disks, put(GATEWAY, "spec.volumeClaimTemplates.0.spec.resources.requests.storage", "1Gi"), "outbox_max_bytes"),
    (disks, text("nats.conf", "max_file_store: 45GB", "max_file_store: 50GB"), "max_file_store"),
    (disks, config("usage_max_bytes = 42949672960", ""), "usage_max_bytes has to leave"),
    (disks, text("nats.conf", "max_file_store: 45GB", "max_file_store: 42GB"), "usage_max_bytes has to leave"),
    (disks, pod(WAKER, "volumes.3.emptyDir", {}), "sizeLimit"),
    (availability, put("PodDisruptionBudget gateway", "spec.maxUnavailable", 0), "PodDisruptionBudget"),
    (availability, without("PodDisruptionBudget", "nats"), "PodDisruptionBudget"),
    (availability, pod(NATS, "topologySpreadConstraints", GONE), "spread over zones"),
    (availability, container(WAKER, "startupProbe", GONE), "no startupProbe"),
    (availability, container(WAKER, "startupProbe.failureThreshold", 3), "ends a start"),
    (availability, container(WAKER, "livenessProbe.failureThreshold", 1), "kills a process"),
    (availability, put(GATEWAY, "spec.persistentVolumeClaimRetentionPolicy.whenScaled", "Delete"), "retained"),
    (scaling, put(GATEWAY, "spec.replicas", 3), "either to it or"),
    (scaling, put(WAKER, "spec.replicas", GONE), "either to it or"),
    (scaling, put(f"{HPA} gateway", "spec.maxReplicas", 0), "at least 2"),
    (scaling, put(f"{HPA} gateway", "spec.minReplicas", 1), "at least 2"),
    (scaling, put(f"{HPA} gateway", "spec.metrics.0.pods.metric.name", "spot_held"), "spot_held"),
    (scaling, put(f"{HPA} gateway", "spec.metrics.0.pods.metric.name", "spot_meter_backlog"), "External"),
    (scaling, put(f"{HPA} gateway", "spec.behavior.scaleDown", {}), "scales down"),
    (network, without("NetworkPolicy", "default-deny"), "everything is allowed"),
    (network, without("NetworkPolicy", "database"), "meter: to database is needed"),
    (network, without("NetworkPolicy", "collector"), "meter: to collector is needed"),
    (network, config("[otel]\nendpoint", "[otel]\n# endpoint"), "4318 is allowed, but nothing needs it"),
    (network, without("NetworkPolicy", "dns"), "nats: to dns is needed"),
    (network, policy("gateway", "ingress", []), "from http: anywhere is needed"),
    (network, policy("gateway", "ingress.1", {"from": [OPEN], "ports": [{"port": "http"}]}), "http: meter"),
    (network, policy("gateway", "egress.1", {"to": [OPEN], "ports": [{"port": 9090}]}), "is allowed"),
    (network, policy("gateway", "egress.0.ports", GONE), "is allowed, but nothing needs it"),
    (network, policy("engines", "podSelector.matchExpressions.0.values.3", "billing"), "billing: to engines"),
    (network, policy("clouds", "podSelector.matchExpressions.0.values.0", "meter"), "meter: to any IPv4 address: 443"),
    (network, policy("clouds", "egress.0.to.1", GONE), "waker: to any IPv6 address: 443 is needed"),
    (network, policy("clouds", "egress.0.to.1.ipBlock.except", ["fe80::/10"]), "fc00::/7"),
    (network, without("NetworkPolicy", "sign-in"), "site: to any IPv4 address: 443 is needed"),
    (network, config("[site.github]\nclient_id", "# client_id"), "site: to any IPv4 address: 443 is allowed, but"),
    (network, config("[site.github]", '[site.github]\napi_url = "https://ghe:8443"'), "address: 8443 is needed"),
    (network, policy("clouds", "egress.0.to.0.ipBlock.except", GONE), "metadata"),
    (network, policy("engines", "egress.0.to.0.ipBlock.cidr", "10.99.0.0/16"), "no block has 10.30.4.11"),
    (network, policy("engines", "egress.0.ports.0.port", 9000), "engines is needed"),
    (network, policy("nats", "policyTypes", ["Ingress"]), "counts only with"),
    (network, policy("nats", "ingress.0.ports.0.port", "clients"), "no port of a container"),
    (network, policy("nats-machines", "ingress.0.from.0.ipBlock.cidr", "0.0.0.0/0"), "nothing needs it"),
    (network, without("NetworkPolicy", "nats-machines"), "from bus: machines is needed"),
    (network, policy("nats-machines", "ingress.0.from.1", GONE), "from bus: balancer is needed"),
    (network, policy("nats-machines", "ingress.0.from.1.ipBlock.cidr", "11.0.0.0/8"), "nothing needs it"),
    (network, policy("metrics", "ingress.0.from", GONE), "metrics: anywhere is allowed"),
    (bus, text("nats.conf", 'include "users.conf"', 'include "people.conf"'), "people.conf is in no volume"),
    (bus, text("nats.conf", "port: 4222", "port: 4223"), "port is not"),
    (bus, text("nats.conf", "sync_interval: always", ""), "sync_interval"),
    (bus, text("cluster.conf", "nats-2.", "nats-3."), "has to name the 3 servers"),
    (bus, text("cluster.conf", "port: 6222", "port: 6223"), "the cluster's port"),
    (bus, put(NATS, "spec.replicas", 2), "lose their quorum"),
    (bus, put(NATS, "spec.replicas", 1), "no cluster"),
    (bus, put(NATS, "spec.podManagementPolicy", "OrderedReady"), "never gets ready"),
    (bus, put("Certificate nats", "spec.dnsNames", ["nats"]), "does not have the name nats-0.nats-nodes"),
    (bus, put("Service nats-machines", "metadata.annotations", {HOST_NAME: "bus.example.net"}), "bus.example.net"),
    (bus, put("Certificate nats", "spec.usages", ["server auth"]), "shown to peers"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change", "words"), CHANGES, ids=[f"{r.__name__}: {w}" for r, _, w in CHANGES])
def test_a_rule_reports_a_change(rule: Rule, change: Change, words: str) -> None:
    manifests = load("production")
    change(manifests)
    faults = rule(manifests)
    assert [fault for fault in faults if words in fault] != [], faults


def test_a_service_without_a_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.deploy.rules.configuration.SERVICES", (*SERVICES, "new"))
    assert services(load("production")) == ["services/new has no folder in k8s/base", "new: has no workload"]


def test_every_rule_is_seen_to_report() -> None:
    assert {rule for rule, _, _ in CHANGES} == set(RULES)


def test_a_query_of_every_installation_is_reported() -> None:
    manifests = load("keda")
    put("ScaledObject gateway", "spec.triggers.0.metadata.query", "sum(spot_gateway_in_flight)")(manifests)
    assert [fault for fault in scaling(manifests) if "other installations" in fault] != []


def test_a_database_that_ends_with_its_pod_is_reported() -> None:
    manifests = load("local")
    pod("StatefulSet site", "volumes.2", {"name": "data", "emptyDir": {"sizeLimit": "100Mi"}})(manifests)
    put("StatefulSet site", "spec.volumeClaimTemplates", [])(manifests)
    assert [fault for fault in disks(manifests) if "ends with its pod" in fault] != []
