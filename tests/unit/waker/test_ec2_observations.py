"""What EC2's descriptions mean, state by state."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.waker.adapters import ec2_observations
from services.waker.core.events import Observation


def instance(code: int, name: str, **more: Any) -> dict[str, Any]:
    return {
        "InstanceId": "i-1",
        "InstanceType": "p5.48xlarge",
        "State": {"Code": code, "Name": name},
        "Placement": {"AvailabilityZone": "us-east-1c"},
        **more,
    }


def seen(described: dict[str, Any], request: dict[str, Any] | None = None) -> Observation:
    observation = ec2_observations.observation_of(described, request)
    assert observation is not None
    return observation


@pytest.mark.parametrize(
    ("code", "name", "power"),
    [
        (0, "pending", "starting"),
        (16, "running", "running"),
        (32, "shutting-down", "stopping"),
        (48, "terminated", "not_found"),
        (64, "stopping", "stopping"),
        (80, "stopped", "stopped"),
        (0x1_50, "stopped", "stopped"),
        (0x2_10, "running", "running"),
    ],
)
def test_states(code: int, name: str, power: str) -> None:
    observation = seen(instance(code, name))
    assert (observation.power, observation.provider_state) == (power, name)


def test_unknown_state_proves_nothing() -> None:
    assert ec2_observations.observation_of(instance(96, "sublimating"), None) is None


def test_the_pool_is_type_zone_and_market() -> None:
    assert seen(instance(16, "running")).pool == "p5.48xlarge/us-east-1c/on-demand"
    assert seen(instance(16, "running", InstanceLifecycle="spot")).pool == "p5.48xlarge/us-east-1c/spot"


def test_a_machine_that_is_bound_to_a_reservation_or_a_host_has_its_capacity_from_there() -> None:
    target = {"CapacityReservationTarget": {"CapacityReservationId": "cr-1"}}
    reserved = instance(16, "running", CapacityReservationSpecification=target)
    assert seen(reserved).pool == "p5.48xlarge/us-east-1c/on-demand/cr-1"
    placement = {"AvailabilityZone": "us-east-1c", "HostId": "h-1"}
    assert seen(instance(16, "running", Placement=placement)).pool == "p5.48xlarge/us-east-1c/on-demand/h-1"


@pytest.mark.parametrize(
    ("types", "family"),
    [
        (["p2.xlarge", "p4d.24xlarge", "p4de.24xlarge", "p5en.48xlarge"], "P"),
        (["g4dn.xlarge", "g6e.12xlarge", "gr6.4xlarge", "vt1.3xlarge"], "G and VT"),
        (["m5.large", "c7gn.large", "t3.micro", "r8g.large", "i3en.large", "im4gn.large", "is4gen.large"], "Standard"),
        (["a1.large", "d3en.xlarge", "h1.2xlarge", "z1d.large"], "Standard"),
        (["inf2.xlarge"], "Inf"),
        (["trn1n.32xlarge"], "Trn"),
        (["x2gd.large", "x8g.large"], "X"),
        (["f1.2xlarge"], "F"),
        (["dl2q.24xlarge"], "DL"),
        (["hpc7a.12xlarge"], "HPC"),
        (["u-6tb1.56xlarge", "u7i-12tb.224xlarge"], "High Memory"),
        (["quantum9.large"], "quantum"),
    ],
)
def test_the_quota_is_of_the_instance_family_with_spot_apart(types: list[str], family: str) -> None:
    for name in types:
        assert seen(instance(16, "running", InstanceType=name)).quota == f"{family}/on-demand"
        spot = instance(16, "running", InstanceType=name, InstanceLifecycle="spot")
        assert seen(spot).quota == f"{family}/spot"


@pytest.mark.parametrize(
    ("code", "scope"),
    [
        ("Server.InsufficientInstanceCapacity", "capacity_pool"),
        ("Client.VolumeLimitExceeded", "machine"),
        ("Server.InternalError", "machine"),
        ("Client.InternalError", "machine"),
        ("Client.InvalidSnapshot.NotFound", "machine"),
        ("Client.UserInitiatedShutdown", None),
        ("Client.UserInitiatedHibernate", None),
        ("Server.ScheduledStop", None),
        ("Server.SpotInstanceShutdown", None),
    ],
)
def test_stop_reason_and_scope_follow_from_the_state_reason(code: str, scope: str | None) -> None:
    observation = seen(instance(80, "stopped", StateReason={"Code": code, "Message": f"{code}: because"}))
    assert observation.scope == scope
    assert observation.reason.startswith(f"{code}: ")
    assert observation.reason.count(code) == 1


@pytest.mark.parametrize(("code", "name"), [(0, "pending"), (16, "running"), (64, "stopping")])
def test_old_state_reason_is_ignored_while_the_machine_runs(code: int, name: str) -> None:
    reason = {"Code": "Server.InsufficientInstanceCapacity", "Message": "old"}
    observation = seen(
        instance(code, name, StateReason=reason, StateTransitionReason="User initiated (2026-11-24 09:00:00 GMT)")
    )
    assert (observation.reason, observation.scope, observation.ended_at) == ("", None, None)


def test_when_it_stopped() -> None:
    ended = datetime(2026, 11, 24, 9, 0, 1, tzinfo=UTC).timestamp()
    assert (
        seen(instance(80, "stopped", StateTransitionReason="User initiated (2026-11-24 09:00:01 GMT)")).ended_at
        == ended
    )
    assert seen(instance(80, "stopped", StateTransitionReason="")).ended_at is None


@pytest.mark.parametrize(
    ("state", "request_state", "status", "leaving", "locked"),
    [
        (16, "active", "fulfilled", False, False),
        (16, "active", "marked-for-stop", True, False),
        (16, "active", "marked-for-termination", True, False),
        (16, "open", "instance-stopped-no-capacity", False, False),
        (80, "disabled", "instance-stopped-by-user", False, False),
        (80, "disabled", "instance-stopped-no-capacity", False, True),
        (80, "disabled", "instance-stopped-by-price", False, True),
        (80, "disabled", "instance-stopped-capacity-oversubscribed", False, True),
        (80, "open", "capacity-not-available", False, True),
        (80, "open", "instance-stopped-no-capacity", False, True),
        (80, "cancelled", "request-canceled-and-instance-running", False, True),
        (80, "active", "marked-for-stop", False, False),
    ],
)
def test_spot_machines(state: int, request_state: str, status: str, leaving: bool, locked: bool) -> None:
    request = {"State": request_state, "Status": {"Code": status}}
    observation = seen(instance(state, "x"), request)
    assert (bool(observation.leaving), bool(observation.locked)) == (leaving, locked)
    if leaving or (locked and request_state == "disabled"):
        assert status in observation.leaving + observation.locked


def test_known_instance_has_what_a_later_call_needs() -> None:
    launched = datetime(2026, 11, 24, tzinfo=UTC)
    described = instance(16, "running", LaunchTime=launched, HibernationOptions={"Configured": True})
    known = ec2_observations.known_instance(described, seen(described))
    assert known == ec2_observations.KnownInstance(
        power="running", hibernates=True, launched=launched.timestamp(), locked=""
    )
    bare = instance(16, "running")
    assert not ec2_observations.known_instance(bare, seen(bare)).hibernates
