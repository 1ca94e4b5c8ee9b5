"""The NATS servers' configuration against the services, the certificates and each other."""

import re
from collections.abc import Iterator

from tests.deploy.manifests import BUS, NAME, Manifests
from tests.deploy.rules.configuration import mounted_files

FOLDER = "/etc/nats"
HOST_NAME = "external-dns.alpha.kubernetes.io/hostname"
"""The annotation of a balancer's Service that names it in DNS."""


def bus(manifests: Manifests) -> list[str]:
    """Return files that are missing, ports and routes of something else, names that no certificate has."""
    workload = manifests.workload(BUS)
    return [f"{workload.place}: {fault}" for fault in _faults(manifests)]


def _faults(manifests: Manifests) -> Iterator[str]:
    workload, files = manifests.workload(BUS), manifests.bus_files
    text = "\n".join(files.values())
    servers = workload.spec["replicas"]
    available = mounted_files(manifests, workload, workload.containers[0])
    named = [f"{FOLDER}/{name}" for name in re.findall(r'include "([^"]+)"', text)]
    named += re.findall(r'_file: "([^"]+)"', text)
    yield from (f"{path} is in no volume" for path in named if path not in available and f"{FOLDER}/" not in available)
    ports = {"client": "port", "monitor": "http_port"}
    for name, key in ports.items():
        if f"\n{key}: {workload.ports.get(name)}\n" not in files["nats.conf"]:
            yield f"{key} is not its container's port {name}"
    if "sync_interval: always" not in files["nats.conf"]:
        yield "sync_interval has to be always: acknowledged means on the disk"
    peers = {f"nats://{BUS}-{n}.{workload.spec['serviceName']}:{workload.ports.get('cluster')}" for n in range(servers)}
    if servers > 1 and set(re.findall(r"nats://\S+", files["cluster.conf"])) != peers:
        yield f"cluster.conf has to name the {servers} servers: {sorted(peers)}"
    if servers > 1 and f"port: {workload.ports.get('cluster')}\n" not in files["cluster.conf"]:
        yield "the cluster's port is not its container's"
    if servers == 1 and "cluster {" in files["cluster.conf"]:
        yield "one server is no cluster: it would wait for a quorum"
    if servers % 2 == 0:
        yield f"{servers} servers lose their quorum as soon as {servers - 1}"
    if workload.spec.get("podManagementPolicy") != "Parallel":
        yield "OrderedReady never gets ready: the first server waits for a quorum"
    yield from _certificate_faults(manifests)


def _certificate_faults(manifests: Manifests) -> Iterator[str]:
    hosts = {url.split("://")[1].partition(":")[0] for url in manifests.config.bus.urls}
    annotations = [
        s["metadata"].get("annotations", {}) for s in manifests.of("Service") if s["spec"]["selector"][NAME] == BUS
    ]
    hosts |= {one[HOST_NAME] for one in annotations if HOST_NAME in one}
    for certificate in manifests.of("Certificate"):
        spec = certificate["spec"]
        if spec["secretName"] == "nats-tls":
            missing = hosts - set(spec["dnsNames"])
            yield from (f"its certificate does not have the name {host}" for host in sorted(missing))
            if not {"server auth", "client auth"} <= set(spec["usages"]):
                yield "its certificate has to serve clients and be shown to peers"
