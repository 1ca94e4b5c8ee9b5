"""NetworkPolicies against who talks to whom: an edge is allowed if and only if the code has it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from shared.bus.permissions import ROLES
from shared.config.sections import SiteSection
from tests.deploy.manifests import BUS, Document, Manifests, place_of
from tests.deploy.rules.code import (
    SERVICES,
    talks_to_clouds,
    talks_to_database,
    talks_to_engines,
    talks_to_identity_providers,
)
from tests.deploy.rules.configuration import present
from tests.deploy.rules.selectors import EVERY_POD, matching

POD_IDENTITY = {"169.254.170.23/32", "fd00:ec2::23/128"}
ANYWHERE = {"0.0.0.0/0": "IPv4", "::/0": "IPv6"}
METADATA = {"0.0.0.0/0": {"169.254.0.0/16"}, "::/0": {"fc00::/7", "fe80::/10"}}
"""Where nodes have their metadata: link-local addresses, and with IPv6 unique local ones."""
HTTPS_PORT = 443
LOCAL_DNS = "169.254.20.10/32"
DATABASE_PORT = 5432
LEAST_PREFIX = 16
"""Of a block that names the balancer's subnets: wider ones are anybody's."""
MACHINES = "nats-machines"
"""The Service by which machines reach the bus."""


@dataclass(frozen=True, order=True)
class Edge:
    """What a pod may do: `direction` is `to` or `from`."""

    pod: str
    direction: str
    what: str


def network(manifests: Manifests) -> list[str]:
    """Return edges that are allowed and not needed, and needed and not allowed."""
    policies = manifests.of("NetworkPolicy")
    if not policies:
        return []
    if manifests.find("NetworkPolicy", EVERY_POD) is None:
        return [f"there is no NetworkPolicy {EVERY_POD}: everything is allowed"]
    allowed = {edge for policy in policies for edge in _edges(manifests, policy)}
    needed = set(_needed(manifests))
    faults = [f"{e.pod}: {e.direction} {e.what} is allowed, but nothing needs it" for e in sorted(allowed - needed)]
    faults += [f"{e.pod}: {e.direction} {e.what} is needed, but not allowed" for e in sorted(needed - allowed)]
    return faults + [f"{place_of(p)}: {fault}" for p in policies for fault in _policy_faults(manifests, p)]


def _needed(manifests: Manifests) -> Iterator[Edge]:
    ours = present(manifests)
    yield from (Edge(pod, "to", "dns") for pod in (*ours, BUS))
    for user in ours:
        yield Edge(user, "to", "bus")
        yield Edge(BUS, "from", f"bus: {user}")
    yield Edge(BUS, "to", "cluster")
    yield Edge(BUS, "from", f"cluster: {BUS}")
    yield from (Edge(service, "to", peer) for service in ours for peer in _peers_outside(manifests, service))
    for service in SERVICES:
        yield Edge(service, "from", "metrics: namespace monitoring")
        if hasattr(getattr(manifests.config, service), "port"):
            yield Edge(service, "from", "http: anywhere")
    if "machine" in ROLES and manifests.find("Service", MACHINES) is not None:
        yield Edge(BUS, "from", "bus: machines")
        yield Edge(BUS, "from", "bus: balancer")
    if any(t["type"] == "nats-jetstream" for s in manifests.of("ScaledObject") for t in s["spec"]["triggers"]):
        yield Edge(BUS, "from", "monitor: namespace keda")


def _peers_outside(manifests: Manifests, service: str) -> Iterator[str]:
    if service == "meter" and manifests.config.otel.endpoint is not None:
        yield "collector"
    if talks_to_identity_providers(service):
        yield from (edge for port in _provider_ports(manifests.config.site) for edge in _anywhere(port))
    if talks_to_engines(service):
        yield "engines"
    if talks_to_database(service):
        yield "database"
    if talks_to_clouds(service):
        yield from _anywhere(HTTPS_PORT)
        if manifests.config.provider.ec2 is not None:
            yield "pod identity"


def _anywhere(port: int) -> list[str]:
    return [f"any {family} address: {port}" for family in ANYWHERE.values()]


def _provider_ports(site: SiteSection) -> set[int]:
    """Return the ports at which the site asks who somebody is."""
    urls = [site.github.web_url, site.github.api_url] if site.github else []
    urls += [site.oidc.issuer] if site.oidc else []
    return {urlsplit(url).port or HTTPS_PORT for url in urls}


def _edges(manifests: Manifests, policy: Document) -> Iterator[Edge]:
    spec = policy["spec"]
    for workload in matching(manifests, spec["podSelector"]):
        for rule in spec.get("egress", []):
            for peer in rule.get("to", [{}]):
                for port in rule.get("ports", [{}]):
                    yield Edge(workload.service, "to", _destination(manifests, peer, port))
        for rule in spec.get("ingress", []):
            for peer in rule.get("from", [{}]):
                for port in rule.get("ports", [{}]):
                    for source in _sources(manifests, peer):
                        yield Edge(workload.service, "from", f"{port.get('port')}: {source}".replace("client:", "bus:"))


def _destination(manifests: Manifests, peer: Document, port: Document) -> str:
    number, block = port.get("port"), peer.get("ipBlock", {})
    if "namespaceSelector" in peer or block.get("cidr") == LOCAL_DNS:
        collector = urlsplit(manifests.config.otel.endpoint or "").port
        return {53: "dns", collector: "collector"}.get(number, f"{peer}:{number}")
    if "podSelector" in peer:
        targets = {w.service for w in matching(manifests, peer["podSelector"])}
        return (
            {"client": "bus", "cluster": "cluster"}.get(str(number), "") if targets == {BUS} else f"{targets}:{number}"
        )
    cidr = block.get("cidr")
    if cidr in POD_IDENTITY:
        meanings = {80: "pod identity"}
    elif cidr in ANYWHERE:
        return f"any {ANYWHERE[cidr]} address: {number}"
    else:
        meanings = {DATABASE_PORT: "database", **dict.fromkeys(_engine_ports(manifests), "engines")}
    return meanings.get(number or 0, f"{peer}:{number}")


def _sources(manifests: Manifests, peer: Document) -> Iterator[str]:
    if "namespaceSelector" in peer:
        yield f"namespace {peer['namespaceSelector']['matchLabels']['kubernetes.io/metadata.name']}"
    elif "ipBlock" in peer:
        block = ip_network(peer["ipBlock"]["cidr"])
        hosts = {ip_address(host) for host, _ in _endpoints(manifests) if _is_address(host)}
        if block.prefixlen and hosts and all(host in block for host in hosts):
            yield "machines"
        else:
            yield "balancer" if block.prefixlen >= LEAST_PREFIX else str(peer)
    elif "podSelector" in peer:
        yield from (workload.service for workload in matching(manifests, peer["podSelector"]))
    else:
        yield str(peer) if peer else "anywhere"


def _endpoints(manifests: Manifests) -> list[tuple[str, int]]:
    urls = [urlsplit(machine.endpoint) for machine in manifests.config.machine if machine.endpoint]
    return [(url.hostname or "", url.port or (443 if url.scheme == "https" else 80)) for url in urls]


def _is_address(host: str) -> bool:
    return re.fullmatch(r"[0-9a-f.:]+", host) is not None


def _engine_ports(manifests: Manifests) -> set[int]:
    return {port for _, port in _endpoints(manifests)}


def _policy_faults(manifests: Manifests, policy: Document) -> Iterator[str]:
    spec = policy["spec"]
    for key, direction in (("Ingress", "ingress"), ("Egress", "egress")):
        if direction in spec and key not in spec.get("policyTypes", []):
            yield f"{direction} counts only with policyTypes {key}"
    for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
        for port in rule.get("ports", []):
            name = port.get("port")
            is_known = isinstance(name, int) or any(name in w.ports for w in manifests.workloads)
            if not is_known or "protocol" not in port:
                yield f"port {name!r} is no port of a container, or has no protocol"
    blocks = [p["ipBlock"] for rule in spec.get("egress", []) for p in rule.get("to", []) if "ipBlock" in p]
    missing = {net for b in blocks for net in METADATA.get(b["cidr"], set()) - set(b.get("except", []))}
    yield from (f"lets pods reach the node's metadata: except {net}" for net in sorted(missing))
    if policy["metadata"]["name"] == "engines":
        networks = [ip_network(block["cidr"]) for block in blocks]
        for host, _ in _endpoints(manifests):
            if _is_address(host) and not any(ip_address(host) in one for one in networks):
                yield f"no block has {host}, an endpoint of the configuration"
