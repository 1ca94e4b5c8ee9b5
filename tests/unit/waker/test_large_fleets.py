"""What one event costs grows with the fleet, and no faster."""

import sys
from dataclasses import replace
from types import FrameType

from services.waker.core.events import ActivityReported
from services.waker.core.fleet import handle
from services.waker.core.fleet_spec import MachineSpec
from services.waker.core.machine import Machine
from services.waker.core.state import Fleet, GatewayReport, ProviderHealth
from shared.messages.gateway import Activity, MachineActivity
from tests.unit.waker.fleets import idle, spec

GATEWAYS = 30


def busy_fleet(size: int) -> Fleet:
    """A tier of cloud machines that are ready and in use, and many gateways that say so."""
    specs = {
        f"m{number}": MachineSpec(
            id=f"m{number}",
            tier="t",
            provider="ec2",
            room=64,
            models=("m",),
            served_as="m",
            endpoint=f"http://m{number}",
        )
        for number in range(size)
    }
    machines = {}
    for name, machine_spec in specs.items():
        machine = Machine(spec=machine_spec, state="ready", endpoint=machine_spec.endpoint)
        machines[name] = replace(machine, probe=replace(machine.probe, next_at=1e9))
    health = ProviderHealth(observe_sent_at=999.0, observed_at=999.0, passed_test=True, test_sent_at=999.0)
    return Fleet(
        spec=spec(provider="ec2", machines=specs, lineups={"m": tuple(specs)}, idle={"t": idle()}),
        leading_since=0.0,
        machines=machines,
        provider_health={"ec2": health},
        gateways={f"g{n}": GatewayReport(report(specs, f"g{n}", 999.0), 999.0) for n in range(GATEWAYS)},
    )


def report(machines: dict[str, MachineSpec], gateway: str, at: float) -> Activity:
    return Activity(gateway=gateway, sent_at=at, machines={name: MachineActivity(in_flight=1) for name in machines})


def calls_of_a_report(size: int) -> int:
    """How often Python code is entered while one gateway's report is handled."""
    fleet = busy_fleet(size)
    event = ActivityReported(report(dict(fleet.spec.machines), "g0", 1000.0))
    calls = 0

    def count(_frame: FrameType, what: str, _value: object) -> None:
        nonlocal calls
        calls += what == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        after, _ = handle(fleet, event, 1000.0)
    finally:
        sys.setprofile(before)
    assert {machine.last_used_at for machine in after.machines.values()} == {1000.0}
    return calls


def test_a_report_costs_as_much_for_each_machine_however_many_there_are() -> None:
    small, large = calls_of_a_report(20) / 20, calls_of_a_report(200) / 200
    assert large < 1.1 * small
    assert large < 2 * GATEWAYS, "the reports of the other gateways are not read again for each machine"
