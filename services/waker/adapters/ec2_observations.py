"""What EC2's descriptions of an instance and of its spot request mean to the waker."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.waker.core.events import Observation, PowerState, RefusalScope

Described = Mapping[str, Any]
"""An instance or a spot request, as boto3 returns it."""

_POWER_STATES: dict[int, PowerState] = {
    0: "starting",
    16: "running",
    32: "stopping",
    48: "not_found",
    64: "stopping",
    80: "stopped",
}
_LOW_BYTE = 0xFF
"""Only the low byte of a state's code has a meaning."""
_SCOPES: dict[str, RefusalScope] = {
    "Server.InsufficientInstanceCapacity": "capacity_pool",
    "Client.VolumeLimitExceeded": "machine",
    "Client.InstanceLimitExceeded": "quota",
    "Client.VcpuLimitExceeded": "quota",
    "Client.InternalError": "machine",
    "Client.InvalidSnapshot.NotFound": "machine",
    "Server.InternalError": "machine",
}
"""What a start is blocked for that was accepted and then failed, by the reason that EC2 gives."""
_HINTS = {
    "Server.InsufficientInstanceCapacity": "EC2 has no room for this type in this zone just now",
    "Client.VolumeLimitExceeded": "the account's quota of volumes is used up: ask AWS for more",
    "Client.InternalError": "it failed at once: look after its volume's encryption key and its permissions",
}
_QUOTA_CLASSES = {
    **dict.fromkeys(("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"), "Standard"),
    **dict.fromkeys(("g", "gr", "vt"), "G and VT"),
    "p": "P",
    "inf": "Inf",
    "trn": "Trn",
    "x": "X",
    "f": "F",
    "dl": "DL",
    "hpc": "HPC",
    "u": "High Memory",
}
"""By the letters with which an instance type begins."""
_FAMILY = re.compile(r"[a-z]+")
_CHANGED = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")


@dataclass(frozen=True)
class KnownInstance:
    """What a later call needs to know of an instance."""

    power: PowerState
    hibernates: bool
    launched: float
    """Unix seconds of its last start."""
    locked: str


def power(instance: Described) -> PowerState | None:
    """The instance's power state; None if EC2's state is unknown to us, which proves nothing."""
    return _POWER_STATES.get(instance["State"]["Code"] & _LOW_BYTE)


def observation_of(instance: Described, request: Described | None) -> Observation | None:
    """What EC2 reports of an instance and its spot request; None if its state is unknown to us."""
    now = power(instance)
    if now is None:
        return None
    cause = instance.get("StateReason", {}) if now in ("stopped", "not_found") else {}
    code = cause.get("Code", "")
    return Observation(
        power=now,
        provider_state=instance["State"]["Name"],
        reason=_reason(code, cause.get("Message", "")),
        ended_at=_ended_at(instance) if now == "stopped" else None,
        scope=_SCOPES.get(code) if now == "stopped" else None,
        pool=_pool(instance),
        quota=quota(instance["InstanceType"], _market(instance)),
        leaving=_leaving(request) if request and now in ("starting", "running") else "",
        locked=_locked(request) if request and now == "stopped" else "",
    )


def known_instance(instance: Described, observation: Observation) -> KnownInstance:
    launched = instance.get("LaunchTime")
    return KnownInstance(
        power=observation.power,
        hibernates=bool(instance.get("HibernationOptions", {}).get("Configured")),
        launched=launched.timestamp() if launched else 0.0,
        locked=observation.locked,
    )


def _reason(code: str, message: str) -> str:
    words = _HINTS.get(code, message.removeprefix(f"{code}:").strip())
    return f"{code}: {words}" if code and words else code or words


def _market(instance: Described) -> str:
    return str(instance.get("InstanceLifecycle", "on-demand"))


def _pool(instance: Described) -> str:
    """The capacity pool. A machine bound to a reservation or a dedicated host takes its capacity from there."""
    placement = instance.get("Placement", {})
    parts = [instance["InstanceType"], placement.get("AvailabilityZone", ""), _market(instance)]
    target = instance.get("CapacityReservationSpecification", {}).get("CapacityReservationTarget", {})
    parts += [
        bound
        for bound in (
            target.get("CapacityReservationId") or target.get("CapacityReservationResourceGroupArn"),
            placement.get("HostId") or placement.get("HostResourceGroupArn"),
        )
        if bound
    ]
    return "/".join(parts)


def quota(instance_type: str, market: str) -> str:
    """Name the vCPU quota that a machine counts against.

    EC2 has one for each class of instance families, with on-demand and spot apart (Service Quotas, "Running On-Demand
    … instances" and "All … Spot Instance Requests"). A family that is in no known class is its own.
    """
    letters = (_FAMILY.match(instance_type) or [""])[0]
    return f"{_QUOTA_CLASSES.get(letters, letters)}/{market}"


def _ended_at(instance: Described) -> float | None:
    match = _CHANGED.search(instance.get("StateTransitionReason", ""))
    return datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp() if match else None


def _status(request: Described) -> str:
    return str(request.get("Status", {}).get("Code", ""))


def _leaving(request: Described) -> str:
    status = _status(request)
    return f"EC2 takes its spot machine back: {status}" if status.startswith("marked-for-") else ""


def _locked(request: Described) -> str:
    status = _status(request)
    # A request that is open again waits for room, so that EC2 can go on with the machine.
    interrupted = status.startswith("instance-stopped-") or request.get("State") == "open"
    if interrupted and status != "instance-stopped-by-user":
        return f"EC2 stopped its spot machine, and only EC2 may start it again: {status}"
    if request.get("State") in ("cancelled", "closed", "failed"):
        return f"its spot request is {request['State']}, so that it cannot be started: make a new machine"
    return ""
