"""Grace periods, memory and disks against the configuration that they have to fit."""

import re
from collections.abc import Iterator

from services.billing.adapters.charge_database import MEMORY
from services.gateway.core.buffer_memory import OWN_BYTES, buffer_bounds
from shared.config.sections import ServiceSection
from tests.deploy.manifests import BUS, Manifests, Workload
from tests.deploy.rules.code import SERVICES, talks_to_database

LAST_SECONDS = 10
"""After the drain: last bytes 1 s, usage 3 s, the bus 2 s, and slack."""
LONGEST_GRACE = 600
"""The cluster autoscaler's `max-graceful-termination-sec`: it ends a pod then, whatever the pod says."""
UNITS = {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "MiB": 2**20,
    "GiB": 2**30,
    "KB": 2**10,
    "MB": 2**20,
    "GB": 2**30,
    "": 1,
}
"""Of quantities, and of Go's and NATS's sizes."""
LOG_BYTES = 50 * 2**20
"""Of a container, as the kubelet keeps by default: five files of 10 MiB."""
FEWEST_BODIES = 8
"""Of the largest size, that a gateway has room for."""


def size_bytes(text: str) -> int:
    """Return the bytes of `512Mi`."""
    match = re.fullmatch(r"(\d+)([A-Za-z]*)", text)
    assert match is not None, text
    return int(match[1]) * UNITS[match[2]]


def grace(manifests: Manifests) -> list[str]:
    """Return pods that are killed before they have drained, or long after."""
    faults = []
    for service in SERVICES:
        workload = manifests.workload(service)
        section: ServiceSection = getattr(manifests.config, service)
        needed = _pre_stop_seconds(workload) + section.drain_s + LAST_SECONDS
        configured = workload.pod.get("terminationGracePeriodSeconds")
        if configured != needed:
            faults.append(
                f"{workload.place}: terminationGracePeriodSeconds is {configured}, the drain takes {needed:g}"
            )
        if needed > LONGEST_GRACE:
            faults.append(f"{workload.place}: drains for {needed:g} s, the autoscaler waits {LONGEST_GRACE}")
        if hasattr(section, "port") and needed == section.drain_grace + LAST_SECONDS:
            faults.append(f"{workload.place}: needs drain_delay or a preStop sleep: balancers send it more requests")
    bus = manifests.workload(BUS)
    match = re.search(r"lame_duck_duration: (\d+)s", manifests.bus_files["nats.conf"])
    lame_duck = int(match[1]) if match else 0
    if not lame_duck or bus.pod.get("terminationGracePeriodSeconds", 0) < lame_duck + 2 * LAST_SECONDS:
        faults.append(f"{bus.place}: needs lame_duck_duration, and {2 * LAST_SECONDS} s more to end")
    return faults


def _pre_stop_seconds(workload: Workload) -> float:
    sleeps = [c.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for c in workload.containers]
    return float(max(sleeps))


def memory(manifests: Manifests) -> list[str]:
    """Return containers without bounds, and bounds that what the container may keep does not fit into."""
    faults = []
    for workload in manifests.workloads:
        for container in workload.containers:
            resources = container.get("resources", {})
            requests, limits = resources.get("requests", {}), resources.get("limits", {})
            if not {"cpu", "memory"} <= set(requests) or set(limits) != {"memory"}:
                faults.append(f"{workload.place}: needs requests of cpu and memory, and a limit of memory alone")
            elif size_bytes(requests["memory"]) > size_bytes(limits["memory"]):
                faults.append(f"{workload.place}: requests more memory than its limit")
            else:
                limit = size_bytes(limits["memory"])
                faults += (f"{workload.place}: {fault}" for fault in _limit_faults(manifests, workload, limit))
    return faults


def _limit_faults(manifests: Manifests, workload: Workload, limit: int) -> Iterator[str]:
    gateway = manifests.config.gateway
    if workload.service == "gateway":
        most, of_key = buffer_bounds(gateway, gateway.workers, limit)
        if gateway.workers * (OWN_BYTES + 2 * most) > limit:
            yield f"its limit is {limit}, but it may buffer {most} bytes, and as many again while it changes bodies"
        if most < FEWEST_BODIES * gateway.max_body_bytes or of_key < gateway.max_body_bytes:
            yield f"its limit leaves room for fewer than {FEWEST_BODIES} bodies of {gateway.max_body_bytes} bytes"
    if workload.service == "billing" and limit < OWN_BYTES * 2 + size_bytes(MEMORY):
        yield f"its limit is {limit}, but an import alone may use {MEMORY}"
    if workload.service == BUS:
        (go,) = [v["value"] for c in workload.containers for v in c["env"] if v["name"] == "GOMEMLIMIT"]
        if not limit * 0.7 <= size_bytes(go) <= limit * 0.9:
            yield f"GOMEMLIMIT = {go} has to be 70 to 90 % of its limit"


def disks(manifests: Manifests) -> list[str]:
    """Return volumes that are smaller than what may be kept on them, and disks of the node without a bound."""
    faults = []
    gateway, bus = manifests.workload("gateway"), manifests.workload(BUS)
    outbox = manifests.config.gateway.outbox_max_bytes
    if _claim_bytes(gateway) < 1.5 * outbox:
        faults.append(f"{gateway.place}: its volume has to hold outbox_max_bytes, {outbox}, and half of it more")
    match = re.search(r"max_file_store: (\d+[A-Z]B)", manifests.bus_files["nats.conf"])
    if match is None or size_bytes(match[1]) > 0.95 * _claim_bytes(bus):
        faults.append(
            f"{bus.place}: max_file_store has to be below its volume, so that a full store only refuses messages"
        )
    elif not 0 < (manifests.config.bus.usage_max_bytes or 0) <= 0.9 * size_bytes(match[1]):
        faults.append("[bus] usage_max_bytes has to leave a tenth of max_file_store to what controls the fleet")
    is_sqlite = manifests.config.database.url_file is None
    for service in [name for name in SERVICES if is_sqlite and talks_to_database(name)]:
        workload = manifests.workload(service)
        if "claim" not in workload.volumes["data"]:
            faults.append(f"{workload.place}: its SQLite database ends with its pod: it needs a volume of its own")
    for workload in manifests.workloads:
        for name, volume in workload.volumes.items():
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                faults.append(f"{workload.place}: volume {name} may fill the node's disk: set sizeLimit")
        if workload.kind != "Job":  # it ends within minutes, and its template cannot change
            faults += _node_disk_faults(workload)
    return faults


def _node_disk_faults(workload: Workload) -> Iterator[str]:
    requests = [c.get("resources", {}).get("requests", {}) for c in workload.containers]
    requested = sum(size_bytes(request.get("ephemeral-storage", "0")) for request in requests)
    folders = [v["emptyDir"] for v in workload.volumes.values() if "emptyDir" in v]
    kept = sum(size_bytes(folder.get("sizeLimit", "0")) for folder in folders) + LOG_BYTES * len(requests)
    if requested < kept:
        yield f"{workload.place}: its ephemeral-storage is below its logs and folders: it is the first to be evicted"


def _claim_bytes(workload: Workload) -> int:
    claim = workload.volumes.get("data", {}).get("claim")
    return size_bytes(claim["spec"]["resources"]["requests"]["storage"]) if claim else 0
