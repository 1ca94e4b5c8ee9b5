"""Wakes and sleeps through the clouds, end to end: gateway, bus, waker, the cloud's API and the machines' engines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.waker.core.policy import COOL_DOWN_S
from shared.bus.jetstream import JetStreamBus
from shared.messages.waker import Transition
from tests.integration.waker.cloud_cluster import CloudCluster, cloud_cluster
from tests.integration.waker.clouds import FLEET, UNKNOWN, SimulatedCloud, SimulatedEc2, SimulatedHyperstack
from tests.kit.hyperstack_cloud import hyperstack_cloud
from tests.kit.moto_cloud import MotoCloud, moto_process
from tests.kit.waiting import until

STEP_SECONDS = 0.3
"""For each change of a machine."""
FOREVER_SECONDS = 3600.0
"""For a change that the test lets end."""
WAKE = ["asleep", "waking", "ready"]
SLEEP = ["draining", "falling_asleep", "asleep"]
Build = Callable[..., Awaitable[CloudCluster]]


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoCloud]:
    with moto_process() as cloud:
        yield cloud


@pytest.fixture
def ec2(moto: MotoCloud) -> SimulatedEc2:
    moto.reset()
    moto.take(start=STEP_SECONDS, stop=STEP_SECONDS)
    return SimulatedEc2(moto)


@pytest.fixture
async def hyperstack() -> AsyncIterator[SimulatedHyperstack]:
    async with hyperstack_cloud(seconds=STEP_SECONDS) as cloud:
        yield SimulatedHyperstack(cloud)


@pytest.fixture(params=["ec2", "hyperstack"])
def cloud(request: pytest.FixtureRequest) -> SimulatedCloud:
    cloud: SimulatedCloud = request.getfixturevalue(request.param)
    return cloud


@pytest.fixture
async def build(
    bus: JetStreamBus, nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Build]:
    """`await build(cloud, idle="1s")`: a cluster without a waker."""
    async with AsyncExitStack() as stack:

        async def built(
            cloud: SimulatedCloud,
            *,
            idle: str = "1h",
            waker: str = "",
            first: str = "",
            second: str = "",
            running: bool = False,
        ) -> CloudCluster:
            for name, value in cloud.secrets.items():
                monkeypatch.setenv(name, value)
            first = first or cloud.add(running=running)
            second = second or cloud.add(pool=1)
            return await stack.enter_async_context(
                cloud_cluster(cloud, bus, nats_url, tmp_path, first=first, second=second, idle=idle, waker=waker)
            )

        yield built


async def test_a_request_wakes_a_machine_and_idleness_puts_it_to_sleep(build: Build, cloud: SimulatedCloud) -> None:
    """The services as they are, with the patience that a cloud needs."""
    cluster = await build(cloud, idle="500ms")
    await cluster.waker_process()
    await cluster.reaches("asleep")
    assert "w1" in await cluster.ask()
    await cluster.asleep(cluster.first)
    asleep = await cluster.reaches("asleep")
    assert (asleep.endpoint, asleep.alarm) == (None, "")
    assert await cluster.path() == [*WAKE, *SLEEP]
    assert await cluster.path("m2") == ["asleep"]
    assert await cluster.calls() == [("start", "accepted"), ("probe", "accepted"), ("stop", "accepted")]
    phases = await cluster.phases()
    assert (phases[0], phases[-1], len(set(phases))) == ("calling", "first_token", len(phases))
    assert (cloud.wakes(cluster.first), cluster.room.served[cluster.first]) == (1, 1)


async def test_a_waker_that_is_killed_in_the_middle_of_a_wake_is_followed(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud)
    await cluster.waker_process()
    await cluster.reaches("asleep", "m2")
    cloud.slow(FOREVER_SECONDS)
    answer = asyncio.create_task(cluster.ask())
    await until(cluster.record, lambda seen: seen is not None and seen.phase == "booting")
    assert cluster.process is not None
    await cluster.process.kill9()
    await cluster.waker_process()
    cloud.slow(STEP_SECONDS)
    assert "w1" in await answer
    assert await cluster.path() == WAKE
    assert (cloud.wakes(cluster.first), cloud.wakes(cluster.second)) == (1, 0)
    assert [outcome for call, outcome in await cluster.calls() if call == "start"] == ["accepted"]


async def test_late_observation_causes_no_second_start(build: Build, ec2: SimulatedEc2) -> None:
    """Its descriptions are seconds old, as EC2's may be; the services have the patience for it."""
    cluster = await build(ec2, idle="500ms")
    ec2.cloud.lag(3.0)
    await cluster.waker_process()
    await cluster.ask()
    await cluster.asleep(cluster.first)
    await cluster.reaches("asleep")
    assert await cluster.path() == [*WAKE, *SLEEP]
    assert await cluster.calls() == [("start", "accepted"), ("probe", "accepted"), ("stop", "accepted")]


async def test_a_cloud_that_is_down_when_the_waker_comes_is_waited_for(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud)
    cloud.down()
    await cluster.waker()
    answer = asyncio.create_task(cluster.ask())
    await cluster.in_doubt(True)
    cloud.heal()
    assert "w1" in await answer
    assert await cluster.path() == WAKE
    assert cloud.wakes(cluster.first) == 1


async def test_who_comes_while_a_machine_falls_asleep_gets_another(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud, idle="500ms")
    await cluster.waker()
    await cluster.ask()
    cloud.slow(FOREVER_SECONDS)
    await cluster.reaches("falling_asleep")
    answer = asyncio.create_task(cluster.ask())
    await cluster.passes("waking", "m2")
    cloud.slow(STEP_SECONDS)
    assert "w1" in await answer
    assert (await cluster.path("m2"))[:3] == WAKE
    await cluster.asleep(cluster.first)
    assert cloud.wakes(cluster.first) == 1


async def test_a_machine_without_room_is_passed_over(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud)
    await cluster.waker()
    await cluster.in_doubt(False)
    cloud.no_room(cluster.first)
    assert "w1" in await cluster.ask()
    assert await cluster.calls() == [("start", "refused")]
    assert (await cluster.reaches("asleep")).alarm == ""
    assert await cluster.path("m2") == WAKE
    assert (cloud.wakes(cluster.first), cloud.wakes(cluster.second)) == (0, 1)


async def test_a_quota_that_is_used_up_pauses_its_instance_family_alone(build: Build, ec2: SimulatedEc2) -> None:
    cluster = await build(ec2, second=ec2.cloud.add_machine(kind="g5.12xlarge", zone="us-east-1a"))
    await cluster.waker()
    await cluster.in_doubt(False)
    ec2.cloud.fail("StartInstances", code="VcpuLimitExceeded", times=None, instance=cluster.first)
    assert "w1" in await cluster.ask()
    assert await cluster.calls() == [("start", "refused")]
    assert "for this instance family is used up" in (await cluster.reaches("asleep")).alarm
    moves = [entry for entry in await cluster.journal() if isinstance(entry, Transition)]
    refused = next(move.at for move in moves if (move.machine, move.from_state) == ("m1", "waking"))
    begun = next(move.at for move in moves if (move.machine, move.to_state) == ("m2", "waking"))
    assert begun - refused < COOL_DOWN_S, "no pause kept the other family asleep"
    assert ec2.wakes(cluster.second) == 1


async def test_a_start_that_comes_to_nothing_is_passed_over(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud)
    await cluster.waker()
    await cluster.in_doubt(False)
    cloud.comes_to_nothing(cluster.first)
    assert "w1" in await cluster.ask()
    assert await cluster.calls() == [("start", "accepted")]
    assert await cluster.path() == ["asleep", "waking", "asleep"]
    assert await cluster.path("m2") == WAKE
    assert (cloud.wakes(cluster.first), cloud.wakes(cluster.second)) == (1, 1)


async def test_a_start_whose_answer_is_lost_is_made_once(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud)
    await cluster.waker()
    await cluster.in_doubt(False)
    cloud.lose_start()
    assert "w1" in await cluster.ask()
    assert await cluster.calls() == [("start", "unknown"), ("probe", "accepted")]
    assert await cluster.path() == WAKE
    assert (cloud.wakes(cluster.first), cloud.wakes(cluster.second)) == (1, 0)


async def test_too_many_calls_delay_a_wake_and_do_not_fail_it(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud)
    await cluster.waker()
    await cluster.in_doubt(False)
    cloud.throttle()
    assert "w1" in await cluster.ask()
    assert cloud.wakes(cluster.first) + cloud.wakes(cluster.second) == 1
    alarms = [record.alarm for machine in ("m1", "m2") if (record := await cluster.record(machine))]
    assert alarms == ["", ""]


async def test_while_the_cloud_is_in_doubt_an_idle_machine_serves_on(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud, idle="3s")
    await cluster.waker()
    await cluster.ask()
    cloud.down()
    await stay_in_use_until_in_doubt(cluster)
    # Longer than its idle timeout: nothing may happen.
    await asyncio.sleep(5)
    assert await cluster.path() == WAKE
    assert "w1" in await cluster.ask()
    cloud.heal()
    await cluster.asleep(cluster.first)
    await cluster.reaches("asleep")
    assert await cluster.path() == [*WAKE, *SLEEP]


async def stay_in_use_until_in_doubt(cluster: CloudCluster) -> None:
    """Else an idle machine may be put to sleep first, however long its timeout."""
    doubt = asyncio.create_task(cluster.in_doubt(True))
    while not doubt.done():
        await cluster.ask()
    await doubt


async def test_a_stop_whose_answer_is_lost_puts_to_sleep(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud, idle="500ms")
    await cluster.waker()
    await cluster.in_doubt(False)
    cloud.lose_stop()
    await cluster.ask()
    await cluster.passes("falling_asleep")
    await cluster.reaches("asleep")
    assert (await cluster.calls())[-1] == ("stop", "unknown")
    assert await cluster.path() == [*WAKE, *SLEEP]


async def test_what_carries_our_mark_and_is_not_configured_is_put_to_sleep(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud)
    orphan, stranger = cloud.add(running=True, fleet=FLEET), cloud.add(running=True)
    await cluster.waker()
    await cluster.asleep(orphan)
    record = await cluster.reaches("asleep", f"{cloud.provider}:{orphan}")
    assert "not configured" in record.reason
    assert await cloud.up() == {stranger}


async def test_a_machine_that_the_cloud_does_not_know_costs_itself_alone(build: Build, cloud: SimulatedCloud) -> None:
    cluster = await build(cloud, first=UNKNOWN[cloud.provider])
    await cluster.waker()
    gone = await cluster.reaches("gone")
    assert "instance" in gone.alarm
    assert "w1" in await cluster.ask()
    assert await cluster.path("m2") == WAKE
    assert await cluster.metric("alarms") == 1


async def test_a_machine_that_runs_without_our_doing_serves_and_then_sleeps(
    build: Build, cloud: SimulatedCloud
) -> None:
    cluster = await build(cloud, idle="500ms", running=True)
    await cluster.waker()
    await cluster.asleep(cluster.first)
    await cluster.reaches("asleep")
    assert await cluster.path() == ["waking", "ready", *SLEEP]
    assert cloud.wakes(cluster.first) == 0


async def test_what_may_not_be_put_to_sleep_is_raised_and_serves_on(build: Build, cloud: SimulatedCloud) -> None:
    """The permission goes when the self-test is over."""
    cluster = await build(cloud, idle="500ms")
    await cluster.waker()
    await cluster.in_doubt(False)
    cloud.forbid()
    await cluster.ask()
    broken = await cluster.reaches("broken")
    assert {"ec2": "ec2:StopInstances", "hyperstack": "may not do this"}[cloud.provider] in broken.alarm
    assert (await cluster.calls()).count(("stop", "refused")) == 3
    await until(lambda: cluster.metric("alarms"), lambda count: count == 1)
    assert "w1" in await cluster.ask()
    assert (cloud.wakes(cluster.first), cloud.wakes(cluster.second)) == (1, 0)
    assert (await cluster.path())[-2:] == ["broken", "ready"]
    cloud.heal()
    await cluster.asleep(cluster.first)


async def test_without_the_permission_to_stop_nothing_is_put_to_sleep(build: Build, ec2: SimulatedEc2) -> None:
    cluster = await build(ec2, idle="500ms")
    ec2.forbid()
    await cluster.waker()
    await cluster.ask()
    # Longer than the idle timeout and the silence of a new leader: nothing may happen.
    await asyncio.sleep(6)
    assert await cluster.path() == WAKE
    assert await cluster.metric("provider_in_doubt", provider="ec2") == 1
    assert "StopInstances" not in ec2.cloud.calls()


async def test_a_key_that_may_do_nothing_any_more_lets_machines_serve_on(
    build: Build, hyperstack: SimulatedHyperstack
) -> None:
    cluster = await build(hyperstack, idle="2s")
    await cluster.waker()
    await cluster.ask()
    hyperstack.cloud.allowed = False
    await stay_in_use_until_in_doubt(cluster)
    # Longer than the idle timeout and the silence of a new leader: nothing may happen.
    await asyncio.sleep(6)
    assert await cluster.path() == WAKE
    assert "w1" in await cluster.ask()


async def test_a_machine_that_is_off_and_billed_is_hibernated(build: Build, hyperstack: SimulatedHyperstack) -> None:
    vm = hyperstack.cloud.add("SHUTOFF")
    cluster = await build(hyperstack, first=str(vm.id))
    await cluster.waker()
    await cluster.asleep(cluster.first)
    await cluster.reaches("asleep")
    assert [word for word, _, _ in vm.past] == ["SHUTOFF", "STARTING", "ACTIVE", "HIBERNATING"]
    assert await cluster.path() == ["broken", "falling_asleep", "asleep"]
    assert "w1" in await cluster.ask()
    assert await cluster.path("m2") == ["asleep"]


async def test_somebody_switches_a_machine_off_that_serves(build: Build, hyperstack: SimulatedHyperstack) -> None:
    cluster = await build(hyperstack)
    await cluster.waker()
    await cluster.ask()
    vm = hyperstack.cloud.vms[int(cluster.first)]
    vm.begin("stop", asyncio.get_running_loop().time(), retain_ip=False)
    await cluster.passes("asleep")
    await cluster.serves_again()
    await cluster.asleep(cluster.first)
    assert [word for word, _, _ in vm.past][-5:] == ["STOPPING", "SHUTOFF", "STARTING", "ACTIVE", "HIBERNATING"]


async def test_a_machine_that_breaks_while_it_comes_up_is_passed_over_and_raised(
    build: Build, hyperstack: SimulatedHyperstack
) -> None:
    cluster = await build(hyperstack)
    hyperstack.cloud.vms[int(cluster.first)].ends.append("ERROR")
    await cluster.waker()
    assert "w1" in await cluster.ask()
    assert await cluster.path("m2") == WAKE
    failed = await cluster.reaches("asleep")
    assert "RestoreHibernationInstanceFailed" in failed.reason


async def test_bounced_hibernation_is_repeated(build: Build, hyperstack: SimulatedHyperstack) -> None:
    cluster = await build(hyperstack, idle="500ms")
    hyperstack.cloud.vms[int(cluster.first)].ends.extend(["ACTIVE", "ACTIVE"])  # of the restore, and of the hibernation
    await cluster.waker()
    await cluster.ask()
    await cluster.asleep(cluster.first)
    await cluster.reaches("asleep")
    assert await cluster.path() == [*WAKE, *SLEEP]
    assert (await cluster.calls()).count(("stop", "accepted")) == 2


async def test_a_spot_machine_that_is_taken_away_drains_at_once(build: Build, ec2: SimulatedEc2) -> None:
    spot = ec2.cloud.add_machine(spot=True, running=True)
    cluster = await build(ec2, first=spot)
    await cluster.waker()
    await cluster.ask()
    ec2.cloud.reclaim(spot, "marked-for-stop")
    drain = await cluster.passes("draining")
    assert "marked-for-stop" in drain.reason
    await cluster.asleep(spot)
    await cluster.reaches("asleep")
    assert "w1" in await cluster.ask()


async def test_a_spot_machine_that_is_gone_without_a_word_is_replaced(build: Build, ec2: SimulatedEc2) -> None:
    spot = ec2.cloud.add_machine(spot=True, running=True)
    cluster = await build(ec2, first=spot)
    await cluster.waker()
    await cluster.ask()
    ec2.cloud.reclaim(spot, "instance-stopped-no-capacity")
    lost = await cluster.reaches("asleep")
    assert "Spot" in lost.reason
    await cluster.serves_again()
    assert await cluster.path("m2") == WAKE
    assert ec2.wakes(spot) == 0
