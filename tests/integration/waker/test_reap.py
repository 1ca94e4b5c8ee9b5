"""The second line: machines that are billed while nobody speaks for them are stopped, and no others."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.waker.ports import RequestCount
from services.waker.wiring import build_providers
from shared.bus import subjects
from shared.bus.access import BusAccess
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import FLEET, FLEET_JOURNAL, LEASES
from shared.config.load import load
from shared.errors import Misconfigured
from shared.messages.codec import decode, encode
from shared.messages.gateway import Activity, MachineActivity
from shared.messages.waker import MachineRecord, MachineState, ProviderCall
from spotinference.context import Context
from spotinference.reap.command import cloud_config, reap_machines
from spotinference.reap.reaper import Reaper
from spotinference.reap.rule import Limits
from spotinference.reap.signs import BusSigns
from tests.integration.waker.clouds import FLEET as FLEET_NAME
from tests.integration.waker.clouds import SimulatedCloud, SimulatedEc2, SimulatedHyperstack
from tests.kit.hyperstack_cloud import hyperstack_cloud
from tests.kit.moto_cloud import MotoCloud, moto_process
from tests.kit.nats_server import NatsServer, nats_binary
from tests.kit.ports import free_port
from tests.kit.waiting import until

AFTER, CAP = 240.0, 120.0
CONFIG = """
[bus]
url = "{bus}"
[waker]
fleet = "{fleet}"
{section}
[[tier]]
name = "t"
provider = "{provider}"
[[machine]]
id = "m1"
tier = "t"
instance = "{instance}"
endpoint = "http://127.0.0.1:1"
"""


OF_HYPERSTACK = """
[provider.hyperstack]
[[tier]]
name = "h"
provider = "hyperstack"
[[machine]]
id = "h1"
tier = "h"
instance = "1"
endpoint = "http://127.0.0.1:1"
"""


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoCloud]:
    with moto_process() as cloud:
        yield cloud


@pytest.fixture
def ec2(moto: MotoCloud) -> SimulatedEc2:
    moto.reset()
    moto.take(start=0.05, stop=0.05)
    return SimulatedEc2(moto)


@pytest.fixture
async def hyperstack() -> AsyncIterator[SimulatedHyperstack]:
    async with hyperstack_cloud(seconds=0.05) as cloud:
        yield SimulatedHyperstack(cloud)


@pytest.fixture(params=["ec2", "hyperstack"])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimulatedCloud:
    cloud: SimulatedCloud = request.getfixturevalue(request.param)
    for name, value in cloud.secrets.items():
        monkeypatch.setenv(name, value)
    return cloud


@dataclass
class Stage:
    """A cloud with one configured machine that runs, and a stray one with the fleet's mark. Time passes in sleeps."""

    cloud: SimulatedCloud
    bus: JetStreamBus
    config: Path
    instance: str
    stray: str
    bus_url: str
    clock: float = 0.0
    lines: list[str] = field(default_factory=list)
    running: int = 0
    """Requests that its engine says it runs."""

    async def count_requests(self, machine: str, endpoint: str, timeout_s: float) -> RequestCount:
        del machine, endpoint, timeout_s
        return RequestCount(running=self.running, answered=True)

    async def sleep(self, seconds: float) -> None:
        self.clock += seconds
        await asyncio.sleep(0.06)

    async def reap(self, *, confirmed: bool = True) -> Reaper:
        config = cloud_config(load(self.config))
        providers = build_providers(config, self.config.parent)
        machines = {m.id: (m, self.cloud.provider) for m in config.machine}
        signs = BusSigns(BusAccess.of(self.bus_url), listen_s=0.1, connect_s=0.3)
        reaper = Reaper(
            machines,
            providers,
            signs,
            self,
            Limits(after_s=AFTER, wake_cap_s=CAP),
            show=self.lines.append,
            monotonic=lambda: self.clock,
            sleep=self.sleep,
        )
        try:
            await (reaper.run() if confirmed else reaper.preview())
        finally:
            for provider in providers.values():
                await provider.close()
        return reaper

    async def lead(self, state: MachineState | None) -> None:
        """A waker leads, and has the machine in this state."""
        await self.bus.put(LEASES, subjects.WAKER_LEASE, b"waker")
        if state is not None:
            record = MachineRecord(
                machine="m1",
                tier="t",
                state=state,
                provider_state="?",
                endpoint=None,
                generation=1,
                since=1.0,
                reason="",
            )
            await self.bus.put(FLEET, "m1", encode(record))

    async def sleeps(self) -> None:
        await until(self.cloud.asleep, lambda seen: self.instance in seen)
        assert self.stray in await self.cloud.up(), "it is not configured"

    async def runs(self) -> None:
        assert {self.instance, self.stray} <= await self.cloud.up()

    async def journal(self) -> list[ProviderCall]:
        return [decode(message.data, ProviderCall) for message in await self.bus.read(FLEET_JOURNAL)]


@pytest.fixture
async def stage(cloud: SimulatedCloud, bus: JetStreamBus, nats_url: str, tmp_path: Path) -> Stage:
    instance, stray = cloud.add(running=True, fleet=FLEET_NAME), cloud.add(running=True, fleet=FLEET_NAME)
    config = tmp_path / "spotinference.toml"
    text = CONFIG.format(
        bus=nats_url, fleet=FLEET_NAME, section=cloud.section, provider=cloud.provider, instance=instance
    )
    config.write_text(text)
    return Stage(cloud, bus, config, instance, stray, nats_url)


async def test_machine_that_no_waker_leads_is_stopped_after_the_bound(stage: Stage) -> None:
    reaper = await stage.reap()
    await stage.sleeps()
    assert (reaper.has_failed, stage.clock >= AFTER) == (False, True)
    (entry,) = await stage.journal()
    assert (entry.machine, entry.call, entry.outcome) == ("m1", "reap", "accepted")
    assert entry.code == "no waker leads, for 240 s"


async def test_preview_stops_nothing(stage: Stage) -> None:
    reaper = await stage.reap(confirmed=False)
    await stage.runs()
    assert stage.lines == ["m1: it is billed and no waker leads: stopped once that has lasted 240 s"]
    assert (reaper.has_failed, await stage.journal()) == (False, [])


@pytest.mark.parametrize("state", ["ready", "waking", "draining", "falling_asleep", "broken"])
async def test_machine_that_the_waker_has_awake_is_left_alone(stage: Stage, state: MachineState) -> None:
    await stage.lead(state)
    assert not (await stage.reap()).has_failed
    await stage.runs()
    assert stage.lines == []


@pytest.mark.parametrize("state", ["asleep", None])
async def test_machine_that_runs_behind_the_wakers_back_is_stopped_after_the_wake_cap(
    stage: Stage, state: MachineState | None
) -> None:
    renewing = asyncio.create_task(_renew(stage, state))
    try:
        assert not (await stage.reap()).has_failed
    finally:
        renewing.cancel()
    await stage.sleeps()
    assert CAP <= stage.clock < AFTER


async def _renew(stage: Stage, state: MachineState | None) -> None:
    while True:
        await stage.lead(state)
        await asyncio.sleep(1.0)


async def test_machine_on_which_gateways_report_requests_is_left_alone(stage: Stage) -> None:
    async def report() -> None:
        while True:
            uses = {"m1": MachineActivity(in_flight=1)}
            activity = Activity(gateway="g1", sent_at=time.time(), machines=uses)
            await stage.bus.publish_volatile(subjects.activity("g1"), encode(activity))
            await asyncio.sleep(0.02)

    reporting = asyncio.create_task(report())
    try:
        await stage.reap()
    finally:
        reporting.cancel()
    await stage.runs()


async def test_engine_that_runs_requests_is_left_alone_without_a_bus(stage: Stage) -> None:
    stage.bus_url, stage.running = f"nats://127.0.0.1:{free_port()}", 2
    reaper = await stage.reap(confirmed=False)
    assert stage.lines == ["m1: it is billed and the bus cannot be reached: stopped once that has lasted 240 s"]
    reaper = await _reap_without_bus(stage)
    await stage.runs()
    assert stage.lines[-1] == "m1: the bus cannot be reached, but its engine runs 2 requests: left alone"
    assert not reaper.has_failed


async def test_idle_machine_is_stopped_without_a_bus(stage: Stage) -> None:
    stage.bus_url = f"nats://127.0.0.1:{free_port()}"
    reaper = await _reap_without_bus(stage)
    await stage.sleeps()
    assert not reaper.has_failed
    assert "m1: the journal could not be reached" in stage.lines


async def test_bus_that_refuses_the_reaper_stops_nothing(tmp_path: Path) -> None:
    """It proves nothing about the waker, which may well lead and keep machines warm."""
    binary = nats_binary()
    assert binary is not None
    server = NatsServer(binary, tmp_path)
    server.more = 'authorization { user: "reaper", password: "new" }'
    await asyncio.to_thread(server.start)
    try:
        url = server.url.replace("nats://", "nats://reaper:old@")
        with pytest.raises(
            Misconfigured, match=r"Authorization Violation.* nothing is stopped: give the reaper the key"
        ):
            await BusSigns(BusAccess.of(url), connect_s=1.0).read()
    finally:
        server.kill9()


async def test_missing_key_of_one_cloud_hides_no_machine_of_the_other(
    moto: MotoCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud = SimulatedEc2(moto)
    for name, value in cloud.secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HYPERSTACK_API_KEY", raising=False)
    bus = f"nats://127.0.0.1:{free_port()}"
    text = CONFIG.format(
        bus=bus, fleet=FLEET_NAME, section=cloud.section, provider="ec2", instance=cloud.add(running=True)
    )
    path = tmp_path / "spotinference.toml"
    path.write_text(f"{text}{OF_HYPERSTACK}")
    context = Context(config_path=path, data_dir=tmp_path)
    monkeypatch.setattr("spotinference.reap.command.BusSigns", lambda access: BusSigns(access, connect_s=0.2))
    assert await reap_machines(context, 240.0, is_confirmed=False) is True
    shown = capsys.readouterr().out
    assert "hyperstack cannot be observed: " in shown
    assert "m1: it is billed and the bus cannot be reached" in shown


async def _reap_without_bus(stage: Stage) -> Reaper:
    """Each attempt to connect takes real time, so few are made."""
    sleep = stage.sleep

    async def leap(seconds: float) -> None:
        await sleep(seconds * 2)

    stage.sleep = leap  # type: ignore[method-assign]  # time passes faster
    return await stage.reap()


async def test_cloud_that_cannot_be_observed_is_a_failure_and_nothing_is_stopped(stage: Stage) -> None:
    stage.cloud.down()
    reaper = await stage.reap()
    assert reaper.has_failed
    assert "cannot be observed" in stage.lines[0]
    stage.cloud.heal()
    await stage.runs()


async def test_stop_that_is_refused_is_a_failure(stage: Stage) -> None:
    stage.cloud.forbid()
    reaper = await stage.reap()
    assert reaper.has_failed
    assert "m1 was not stopped" in stage.lines[-1]
    stage.cloud.heal()
    await stage.runs()


@pytest.mark.long
async def test_command_previews_and_stops_when_it_is_confirmed(stage: Stage) -> None:
    async def command(*more: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "spotinference", "reap", "--config", str(stage.config), *more),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    status, output = await command()
    assert (status, "m1: it is billed and no waker leads" in output) == (0, True), output
    await stage.runs()
    status, output = await command("--yes", "--after", "1s")
    assert (status, "m1: no waker leads, for 1 s: stop accepted" in output) == (0, True), output
    await stage.sleeps()
