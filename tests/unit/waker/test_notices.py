"""A machine that its provider takes back says so before the provider's API does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.waker.core.events import NoticeReceived, Observation, Probe, StartMachine, StopMachine
from services.waker.wiring import service
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.config.load import parse
from shared.messages.codec import encode, rfc3339
from shared.messages.machine import MachineNotice
from shared.messages.waker import ProviderCall, Transition
from shared.runtime.process import Runtime
from tests.kit.waiting import until
from tests.unit.waker.fleets import GATEWAY, World, answering, invariants, requested, spec


def notified(world: World, name: str = "a1", *, after: float = 120.0, observed: float = 0.0) -> None:
    notice = MachineNotice(machine=name, action="stop", at=world.now + after, observed_at=world.now + observed)
    world.handle(NoticeReceived(notice))


def notices(world: World) -> list[ProviderCall]:
    return [e for e in world.journal if isinstance(e, ProviderCall) and e.call == "notice"]


@pytest.fixture
def world() -> World:
    world = World(spec=spec(provider="ec2"))
    world.ready()
    world.pass_time(GATEWAY + 1)
    world.use("a1", in_flight=1)
    return world


def test_machine_drains_at_once_and_its_streams_go_on(world: World) -> None:
    notified(world)
    last = [e for e in world.journal if isinstance(e, Transition)][-1]
    assert (last.machine, last.to_state) == ("a1", "draining")
    assert last.reason.startswith("its provider reclaims it: stop at ")
    assert last.reason.endswith(", as the machine was told")
    world.now += 5
    world.use("a1", in_flight=1)
    notified(world, after=115)
    assert (world.state("a1"), requested(world, StopMachine)) == ("draining", [])
    assert len(notices(world)) == 1, "the repeated notice is the same"
    world.use("a1", ack=True)
    assert requested(world, StopMachine) == ["a1"]
    invariants(world)


def test_waiting_requests_wake_another_machine_of_the_lineup(world: World) -> None:
    notified(world)
    assert requested(world, StartMachine) == []
    world.want()
    assert requested(world, StartMachine) == ["a2"]
    assert world.state("a1") == "draining"
    invariants(world)


def test_notice_of_a_broken_machine_replaces_the_words_of_the_probe(world: World) -> None:
    for _ in range(3):
        while not any(isinstance(e, Probe) for e in world.effects):
            world.use("a1", in_flight=1)
            world.pass_time(1.0, step=1.0)
        world.probed(answered=False)
    assert world.state("a1") == "broken"
    notified(world)
    assert "as the machine was told" in world.bucket["a1"][0].reason
    world.seen("a1", "stopped", after=5)
    assert "as the machine was told" in world.bucket["a1"][0].reason
    assert len(notices(world)) == 1


def test_waking_machine_that_is_taken_back_drains_when_it_is_ready() -> None:
    world = World(spec=spec(provider="ec2"))
    world.want()
    world.started()
    world.seen("a1", "running", after=20.0)
    notified(world)
    world.use("a1")
    answering(world, 5, until="draining")
    assert world.path("a1")[:4] == ["asleep", "waking", "ready", "draining"]
    invariants(world)


def test_notice_that_does_not_come_true_lapses(world: World) -> None:
    notified(world)
    for _ in range(430):
        world.use("a1", in_flight=1)
        answering(world, 1)
    assert world.state("a1") == "ready", "it serves again"
    invariants(world)


def test_notice_of_an_earlier_life_counts_for_nothing(world: World) -> None:
    notified(world)
    world.seen("a1", "stopped", reason="Server.SpotInstanceTermination", after=10)
    notified(world, observed=-10)
    assert world.state("a1") == "asleep"
    assert world.machine("a1").notice is None
    assert len(notices(world)) == 1
    world.now += 1
    world.begin({"a1": Observation(power="running", provider_state="running")})
    assert not world.machine("a1").is_leaving


CONFIG = """
[[tier]]
name = "lab"
provider = "static"
[[tier]]
name = "local"
provider = "process"
[[machine]]
id = "s1"
tier = "lab"
endpoint = "http://127.0.0.1:1"
[[machine]]
id = "m1"
tier = "local"
command = ["engine", "{port}"]
"""


@dataclass
class Stage:
    """A waker on a bus on which machines speak. Its clock stands."""

    runtime: Runtime
    bus: MemoryBus
    clock: list[float]
    """The time of day."""

    @property
    def now(self) -> float:
        return self.clock[0]

    async def rejections_of(self, notice: MachineNotice | bytes, *, subject: str = "m1") -> int:
        """How many messages it rejects when it gets this one."""
        before = self.bus.rejections.counts.get(subjects.MACHINE_NOTICES, 0)
        data = notice if isinstance(notice, bytes) else encode(notice)
        await self.bus.publish_volatile(subjects.machine_notice(subject), data)
        await asyncio.sleep(0)
        return self.bus.rejections.counts.get(subjects.MACHINE_NOTICES, 0) - before

    def notice(self, *, machine: str = "m1", after: float = 120.0, age: float = 0.0) -> MachineNotice:
        return MachineNotice(machine=machine, action="stop", at=self.now + after, observed_at=self.now - age)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    bus, config = MemoryBus(), parse(CONFIG, "test")
    runtime = Runtime(service="waker", config=config, data_dir=tmp_path, bus=bus, port=None)
    clock = [1_795_478_297.0]
    runtime.now = lambda: clock[0]
    made = Stage(runtime, bus, clock)
    try:
        async with service(runtime):

            async def leads() -> float | None:
                return runtime.registry.get_sample_value("spot_waker_leading")

            await until(leads, lambda value: value == 1)
            yield made
    finally:
        await runtime.cancel_tasks()


async def test_only_fresh_notices_of_known_machines_count(stage: Stage) -> None:
    assert await stage.rejections_of(stage.notice()) == 0
    assert await stage.rejections_of(stage.notice(machine="other"), subject="other") == 1
    assert await stage.rejections_of(stage.notice(machine="s1"), subject="s1") == 1, "static"
    assert await stage.rejections_of(stage.notice(), subject="m2") == 1, "another machine's subject"
    assert await stage.rejections_of(stage.notice(age=60)) == 1, "a replay"
    assert await stage.rejections_of(stage.notice(age=-60)) == 1, "a clock that is wrong"
    assert await stage.rejections_of(stage.notice(after=-60)) == 1, "past"
    assert await stage.rejections_of(stage.notice(after=3600)) == 1, "far away"
    for garbage in (b"", b"{}", b"\xff", b'{"type":"machine_notice.v1","machine":"","action":"stop"}'):
        assert await stage.rejections_of(garbage) == 1, garbage


async def test_notices_are_judged_by_the_time_of_day_after_the_clock_was_set(stage: Stage) -> None:
    """A term's own time goes on steadily, and would take every later notice for an old one."""
    old = stage.notice()
    for seconds in (-3600.0, 7200.0):
        stage.clock[0] += seconds
        assert await stage.rejections_of(stage.notice()) == 0
        assert await stage.rejections_of(old) == 1


def test_notice_is_kept_by_the_steady_time(world: World) -> None:
    """What a clock was set by neither ends a notice early nor keeps it for longer."""
    notice = MachineNotice(machine="a1", action="stop", at=world.now - 3480.0, observed_at=world.now - 3600.0)
    world.handle(NoticeReceived(notice, ahead_s=3600.0))
    assert world.state("a1") == "draining"
    kept = world.machine("a1").notice
    assert kept is not None
    assert kept.at == world.now + 120.0
    assert notices(world)[0].code.startswith(f"stop at {rfc3339(notice.at)}")
