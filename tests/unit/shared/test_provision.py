"""What provisioning changes in a stream that exists."""

import pytest
from nats.js.api import DiscardPolicy, Placement, StreamConfig

from shared.bus import topology
from shared.bus.provision import bucket_settings, stream_change, stream_settings

SETTINGS = stream_settings(topology.USAGE, None)


def _existing(*, replicas: int, **changed: object) -> StreamConfig:
    return StreamConfig(name="USAGE", num_replicas=replicas, max_bytes=1000, **SETTINGS).evolve(**changed)


@pytest.mark.parametrize("requested", [1, 2, 3])
def test_replicas_stay_when_fewer_are_requested(requested: int) -> None:
    assert stream_change(_existing(replicas=3), SETTINGS, requested) is None


def test_replicas_rise_when_more_are_requested() -> None:
    change = stream_change(_existing(replicas=1), SETTINGS, 3)
    assert change is not None
    assert change.num_replicas == 3


def test_replicas_stay_when_another_setting_changes() -> None:
    change = stream_change(_existing(replicas=3, max_age=60.0), SETTINGS, 1)
    assert change is not None
    assert change.num_replicas == 3
    assert change.max_age == topology.USAGE.max_age


def test_settings_of_the_operator_stay_when_a_stream_changes() -> None:
    existing = _existing(replicas=1, placement=Placement(cluster="eu"), max_age=60.0)
    change = stream_change(existing, SETTINGS, 1)
    assert change == _existing(replicas=1, placement=Placement(cluster="eu"))


def test_a_bucket_keeps_what_the_server_chose_for_it() -> None:
    existing = StreamConfig(name="KV_fleet", num_replicas=1, discard=DiscardPolicy.NEW, deny_delete=True, max_age=9.0)
    change = stream_change(existing, bucket_settings(topology.FLEET), 1)
    assert change is not None
    assert change.max_age == 0.0
    assert change.discard is DiscardPolicy.NEW
    assert change.deny_delete
