"""Wakes and sleeps through the clouds, end to end: gateway, bus, waker, the cloud's API and the machines' engines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.waker.core.policy import COOL_DOWN_S
from shared.bus.jetstream import JetStreamBus
from shared.messages.waker import Transition
from tests.integration.waker.cloud_house import CloudHouse, cloud_house
from tests.integration.waker.clouds import FLEET, UNKNOWN, Ec2Sky, HyperstackSky, Sky
from tests.kit.hyperstack_cloud import hyperstack_cloud
from tests.kit.moto_cloud import MotoCloud, moto_process
from tests.kit.waiting import until

STEP_SECONDS = 0.3
"""For each change of a machine."""
WAKE = ["asleep", "waking", "ready"]
SLEEP = ["draining", "falling_asleep", "asleep"]
Build = Callable[..., Awaitable[CloudHouse]]


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoCloud]:
    with moto_process() as cloud:
        yield cloud


@pytest.fixture
def ec2(moto: MotoCloud) -> Ec2Sky:
    moto.reset()
    moto.take(start=STEP_SECONDS, stop=STEP_SECONDS)
    return Ec2Sky(moto)


@pytest.fixture
async def hyperstack() -> AsyncIterator[HyperstackSky]:
    async with hyperstack_cloud(seconds=STEP_SECONDS) as cloud:
        yield HyperstackSky(cloud)


@pytest.fixture(params=["ec2", "hyperstack"])
def sky(request: pytest.FixtureRequest) -> Sky:
    cloud: Sky = request.getfixturevalue(request.param)
    return cloud


@pytest.fixture
async def build(
    bus: JetStreamBus, nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Build]:
    """`await build(sky, idle="1s")`: a house without a waker."""
    async with AsyncExitStack() as stack:

        async def built(
            sky: Sky, *, idle: str = "1h", waker: str = "", first: str = "", second: str = "", running: bool = False
        ) -> CloudHouse:
            for name, value in sky.secrets.items():
                monkeypatch.setenv(name, value)
            first = first or sky.add(running=running)
            second = second or sky.add(pool=1)
            return await stack.enter_async_context(
                cloud_house(sky, bus, nats_url, tmp_path, first=first, second=second, idle=idle, waker=waker)
            )

        yield built


async def test_a_request_wakes_a_machine_and_idleness_puts_it_to_sleep(build: Build, sky: Sky) -> None:
    """The services as they are, with the patience that a cloud needs."""
    house = await build(sky, idle="500ms")
    await house.waker_process()
    await house.reaches("asleep")
    assert "w1" in await house.ask()
    await house.asleep(house.first)
    asleep = await house.reaches("asleep")
    assert (asleep.endpoint, asleep.alarm) == (None, "")
    assert await house.path() == [*WAKE, *SLEEP]
    assert await house.path("m2") == ["asleep"]
    assert await house.calls() == [("start", "accepted"), ("probe", "accepted"), ("stop", "accepted")]
    phases = await house.phases()
    assert (phases[0], phases[-1], len(set(phases))) == ("calling", "first_token", len(phases))
    assert (sky.wakes(house.first), house.room.served[house.first]) == (1, 1)


async def test_a_waker_that_is_killed_in_the_middle_of_a_wake_is_followed(build: Build, sky: Sky) -> None:
    house = await build(sky)
    await house.waker_process()
    await house.reaches("asleep", "m2")
    sky.slow(4.0)
    answer = asyncio.create_task(house.ask())
    await until(house.record, lambda seen: seen is not None and seen.phase == "booting")
    assert house.process is not None
    await house.process.kill9()
    await house.waker_process()
    assert "w1" in await answer
    assert await house.path() == WAKE
    assert (sky.wakes(house.first), sky.wakes(house.second)) == (1, 0)
    assert [outcome for call, outcome in await house.calls() if call == "start"] == ["accepted"]


async def test_late_observation_causes_no_second_start(build: Build, ec2: Ec2Sky) -> None:
    """Its descriptions are seconds old, as EC2's may be; the services have the patience for it."""
    house = await build(ec2, idle="500ms")
    ec2.cloud.lag(3.0)
    await house.waker_process()
    await house.ask()
    await house.asleep(house.first)
    await house.reaches("asleep")
    assert await house.path() == [*WAKE, *SLEEP]
    assert await house.calls() == [("start", "accepted"), ("probe", "accepted"), ("stop", "accepted")]


async def test_a_cloud_that_is_down_when_the_waker_comes_is_waited_for(build: Build, sky: Sky) -> None:
    house = await build(sky)
    sky.down()
    await house.waker()
    answer = asyncio.create_task(house.ask())
    await house.in_doubt(True)
    sky.heal()
    assert "w1" in await answer
    assert await house.path() == WAKE
    assert sky.wakes(house.first) == 1


async def test_who_comes_while_a_machine_falls_asleep_gets_another(build: Build, sky: Sky) -> None:
    house = await build(sky, idle="500ms")
    await house.waker()
    await house.ask()
    sky.slow(4.0)
    await house.reaches("falling_asleep")
    assert "w1" in await house.ask()
    assert (await house.path("m2"))[:3] == WAKE
    await house.asleep(house.first)
    assert sky.wakes(house.first) == 1


async def test_a_machine_without_room_is_passed_over(build: Build, sky: Sky) -> None:
    house = await build(sky)
    await house.waker()
    await house.in_doubt(False)
    sky.no_room(house.first)
    assert "w1" in await house.ask()
    assert await house.calls() == [("start", "refused")]
    assert (await house.reaches("asleep")).alarm == ""
    assert await house.path("m2") == WAKE
    assert (sky.wakes(house.first), sky.wakes(house.second)) == (0, 1)


async def test_a_quota_that_is_used_up_pauses_its_instance_family_alone(build: Build, ec2: Ec2Sky) -> None:
    house = await build(ec2, second=ec2.cloud.add_machine(kind="g5.12xlarge", zone="us-east-1a"))
    await house.waker()
    await house.in_doubt(False)
    ec2.cloud.fail("StartInstances", code="VcpuLimitExceeded", times=None, instance=house.first)
    assert "w1" in await house.ask()
    assert await house.calls() == [("start", "refused")]
    assert "for this instance family is used up" in (await house.reaches("asleep")).alarm
    moves = [entry for entry in await house.journal() if isinstance(entry, Transition)]
    refused = next(move.at for move in moves if (move.machine, move.from_state) == ("m1", "waking"))
    begun = next(move.at for move in moves if (move.machine, move.to_state) == ("m2", "waking"))
    assert begun - refused < COOL_DOWN_S, "no pause kept the other family asleep"
    assert ec2.wakes(house.second) == 1


async def test_a_start_that_comes_to_nothing_is_passed_over(build: Build, sky: Sky) -> None:
    house = await build(sky)
    await house.waker()
    await house.in_doubt(False)
    sky.comes_to_nothing(house.first)
    assert "w1" in await house.ask()
    assert await house.calls() == [("start", "accepted")]
    assert await house.path() == ["asleep", "waking", "asleep"]
    assert await house.path("m2") == WAKE
    assert (sky.wakes(house.first), sky.wakes(house.second)) == (1, 1)


async def test_a_start_whose_answer_is_lost_is_made_once(build: Build, sky: Sky) -> None:
    house = await build(sky)
    await house.waker()
    await house.in_doubt(False)
    sky.lose_start()
    assert "w1" in await house.ask()
    assert await house.calls() == [("start", "unknown"), ("probe", "accepted")]
    assert await house.path() == WAKE
    assert (sky.wakes(house.first), sky.wakes(house.second)) == (1, 0)


async def test_too_many_calls_delay_a_wake_and_do_not_fail_it(build: Build, sky: Sky) -> None:
    house = await build(sky)
    await house.waker()
    await house.in_doubt(False)
    sky.throttle()
    assert "w1" in await house.ask()
    assert sky.wakes(house.first) + sky.wakes(house.second) == 1
    alarms = [record.alarm for machine in ("m1", "m2") if (record := await house.record(machine))]
    assert alarms == ["", ""]


async def test_while_the_cloud_is_in_doubt_an_idle_machine_serves_on(build: Build, sky: Sky) -> None:
    house = await build(sky, idle="3s")
    await house.waker()
    await house.ask()
    sky.down()
    await house.in_doubt(True)
    # Longer than its idle timeout: nothing may happen.
    await asyncio.sleep(5)
    assert await house.path() == WAKE
    assert "w1" in await house.ask()
    sky.heal()
    await house.asleep(house.first)
    await house.reaches("asleep")
    assert await house.path() == [*WAKE, *SLEEP]


async def test_a_stop_whose_answer_is_lost_puts_to_sleep(build: Build, sky: Sky) -> None:
    house = await build(sky, idle="500ms")
    await house.waker()
    await house.in_doubt(False)
    sky.lose_stop()
    await house.ask()
    await house.reaches("falling_asleep")
    await house.reaches("asleep")
    assert (await house.calls())[-1] == ("stop", "unknown")
    assert await house.path() == [*WAKE, *SLEEP]


async def test_what_carries_our_mark_and_is_not_configured_is_put_to_sleep(build: Build, sky: Sky) -> None:
    house = await build(sky)
    orphan, stranger = sky.add(running=True, fleet=FLEET), sky.add(running=True)
    await house.waker()
    await house.asleep(orphan)
    record = await house.reaches("asleep", f"{sky.provider}:{orphan}")
    assert "not configured" in record.reason
    assert await sky.up() == {stranger}


async def test_a_machine_that_the_cloud_does_not_know_costs_itself_alone(build: Build, sky: Sky) -> None:
    house = await build(sky, first=UNKNOWN[sky.provider])
    await house.waker()
    gone = await house.reaches("gone")
    assert "instance" in gone.alarm
    assert "w1" in await house.ask()
    assert await house.path("m2") == WAKE
    assert await house.metric("alarms") == 1


async def test_a_machine_that_runs_without_our_doing_serves_and_then_sleeps(build: Build, sky: Sky) -> None:
    house = await build(sky, idle="500ms", running=True)
    await house.waker()
    await house.asleep(house.first)
    await house.reaches("asleep")
    assert await house.path() == ["waking", "ready", *SLEEP]
    assert sky.wakes(house.first) == 0


async def test_what_may_not_be_put_to_sleep_is_raised_and_serves_on(build: Build, sky: Sky) -> None:
    """The permission goes when the self-test is over."""
    house = await build(sky, idle="500ms")
    await house.waker()
    await house.in_doubt(False)
    sky.forbid()
    await house.ask()
    broken = await house.reaches("broken")
    assert {"ec2": "ec2:StopInstances", "hyperstack": "may not do this"}[sky.provider] in broken.alarm
    assert (await house.calls()).count(("stop", "refused")) == 3
    await until(lambda: house.metric("alarms"), lambda count: count == 1)
    assert "w1" in await house.ask()
    assert (sky.wakes(house.first), sky.wakes(house.second)) == (1, 0)
    assert (await house.path())[-2:] == ["broken", "ready"]
    sky.heal()
    await house.asleep(house.first)


async def test_without_the_permission_to_stop_nothing_is_put_to_sleep(build: Build, ec2: Ec2Sky) -> None:
    house = await build(ec2, idle="500ms")
    ec2.forbid()
    await house.waker()
    await house.ask()
    # Longer than the idle timeout and the silence of a new leader: nothing may happen.
    await asyncio.sleep(6)
    assert await house.path() == WAKE
    assert await house.metric("provider_in_doubt", provider="ec2") == 1
    assert "StopInstances" not in ec2.cloud.calls()


async def test_a_key_that_may_do_nothing_any_more_lets_machines_serve_on(
    build: Build, hyperstack: HyperstackSky
) -> None:
    house = await build(hyperstack, idle="2s")
    await house.waker()
    await house.ask()
    hyperstack.cloud.allowed = False
    await house.in_doubt(True)
    # Longer than the idle timeout and the silence of a new leader: nothing may happen.
    await asyncio.sleep(6)
    assert await house.path() == WAKE
    assert "w1" in await house.ask()


async def test_a_machine_that_is_off_and_billed_is_hibernated(build: Build, hyperstack: HyperstackSky) -> None:
    vm = hyperstack.cloud.add("SHUTOFF")
    house = await build(hyperstack, first=str(vm.id))
    await house.waker()
    await house.asleep(house.first)
    await house.reaches("asleep")
    assert [word for word, _, _ in vm.past] == ["SHUTOFF", "STARTING", "ACTIVE", "HIBERNATING"]
    assert await house.path() == ["broken", "falling_asleep", "asleep"]
    assert "w1" in await house.ask()
    assert await house.path("m2") == ["asleep"]


async def test_somebody_switches_a_machine_off_that_serves(build: Build, hyperstack: HyperstackSky) -> None:
    house = await build(hyperstack)
    await house.waker()
    await house.ask()
    vm = hyperstack.cloud.vms[int(house.first)]
    vm.begin("stop", asyncio.get_running_loop().time(), retain_ip=False)
    await house.passes("asleep")
    await house.serves_again()
    await house.asleep(house.first)
    assert [word for word, _, _ in vm.past][-5:] == ["STOPPING", "SHUTOFF", "STARTING", "ACTIVE", "HIBERNATING"]


async def test_a_machine_that_breaks_while_it_comes_up_is_passed_over_and_raised(
    build: Build, hyperstack: HyperstackSky
) -> None:
    house = await build(hyperstack)
    hyperstack.cloud.vms[int(house.first)].ends.append("ERROR")
    await house.waker()
    assert "w1" in await house.ask()
    assert await house.path("m2") == WAKE
    failed = await house.reaches("asleep")
    assert "RestoreHibernationInstanceFailed" in failed.reason


async def test_bounced_hibernation_is_repeated(build: Build, hyperstack: HyperstackSky) -> None:
    house = await build(hyperstack, idle="500ms")
    hyperstack.cloud.vms[int(house.first)].ends.extend(["ACTIVE", "ACTIVE"])  # of the restore, and of the hibernation
    await house.waker()
    await house.ask()
    await house.asleep(house.first)
    await house.reaches("asleep")
    assert await house.path() == [*WAKE, *SLEEP]
    assert (await house.calls()).count(("stop", "accepted")) == 2


async def test_a_spot_machine_that_is_taken_away_drains_at_once(build: Build, ec2: Ec2Sky) -> None:
    spot = ec2.cloud.add_machine(spot=True, running=True)
    house = await build(ec2, first=spot)
    await house.waker()
    await house.ask()
    ec2.cloud.reclaim(spot, "marked-for-stop")
    drain = await house.passes("draining")
    assert "marked-for-stop" in drain.reason
    await house.asleep(spot)
    await house.reaches("asleep")
    assert "w1" in await house.ask()


async def test_a_spot_machine_that_is_gone_without_a_word_is_replaced(build: Build, ec2: Ec2Sky) -> None:
    spot = ec2.cloud.add_machine(spot=True, running=True)
    house = await build(ec2, first=spot)
    await house.waker()
    await house.ask()
    ec2.cloud.reclaim(spot, "instance-stopped-no-capacity")
    lost = await house.reaches("asleep")
    assert "Spot" in lost.reason
    await house.serves_again()
    assert await house.path("m2") == WAKE
    assert ec2.wakes(spot) == 0
