"""Clocks of gateways that are set, while the waker's own is steady."""

from services.waker.core.events import ActivityReported
from shared.messages.gateway import Activity, MachineActivity
from tests.unit.waker.fleets import GATEWAY, World, invariants


def test_a_gateway_whose_clock_is_set_back_is_not_taken_for_gone() -> None:
    world = World()
    world.ready()
    world.use("a1")
    while world.state("a1") != "draining":
        world.pass_time(1.0)
        world.use("a1")
    use = MachineActivity(in_flight=0)
    for _ in range(8):
        world.pass_time(2.45, step=0.05)
        behind = world.now - GATEWAY + 0.1
        world.handle(ActivityReported(Activity(gateway="g1", sent_at=behind, machines={"a1": use})))
    assert world.state("a1") == "draining", "it did not acknowledge, and it lives"
    invariants(world)
