"""The waker's process: it wakes, drains, survives its own death and everybody else's."""

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp

from services.waker.adapters import keeper_files
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import FLEET, LEASES
from shared.messages.codec import decode
from shared.messages.waker import MachineRecord, ProviderCall, Transition
from tests.integration.waker.conftest import House_
from tests.kit.nats_server import NatsServer
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.service import running
from tests.kit.waiting import until


async def ended(pid: int) -> None:
    async def observe() -> bool:
        return keeper_files.process_start(pid) is not None

    await until(observe, lambda alive: not alive)


async def test_demand_wakes_and_idleness_puts_to_sleep(house: House_, tmp_path: Path) -> None:
    requests = tmp_path / "requests"
    home = await house("--request-log", str(requests), idle="500ms")
    await home.waker()
    assert (await home.reaches("asleep")).reason == "seen for the first time"
    await home.want()
    ready = await home.reaches("ready")
    assert ready.endpoint == f"http://127.0.0.1:{home.engine().port}"
    assert (ready.generation, ready.phase, ready.key_id) == (1, None, "key-1")
    probe = json.loads(requests.read_text())
    assert (probe["path"], probe["model"], probe["max_tokens"]) == ("/v1/completions", "the-engines-name", 1)
    await home.want(0)
    gateway = asyncio.create_task(home.acknowledge())
    asleep = await home.reaches("asleep")
    gateway.cancel()
    assert (asleep.endpoint, asleep.wake_id) == (None, None)
    assert await home.path() == ["asleep", "waking", "ready", "draining", "falling_asleep", "asleep"]
    assert await home.calls() == [("start", "accepted"), ("probe", "accepted"), ("stop", "accepted")]
    journal = await home.journal()
    assert [entry.tokens for entry in journal if isinstance(entry, ProviderCall)] == [0, 3, 0]
    wakes = {entry.wake_id for entry in journal if isinstance(entry, Transition)}
    assert len(wakes) == 2  # none at first sight, and one from then on


async def test_chat_only_engine_is_probed_by_chat(house: House_, tmp_path: Path) -> None:
    requests = tmp_path / "requests"
    home = await house("--chat-only", "--request-log", str(requests))
    await home.waker()
    await home.want()
    await home.reaches("ready")
    assert [json.loads(line)["path"] for line in requests.read_text().splitlines()] == [
        "/v1/completions",
        "/v1/chat/completions",
    ]


async def test_demand_from_before_the_waker_counts(house: House_) -> None:
    home = await house()
    await home.want()
    await home.waker()
    await home.reaches("ready")


async def test_a_killed_waker_leaves_the_engine_and_the_next_takes_it_over(house: House_) -> None:
    home = await house()
    first = await home.waker()
    await home.want()
    before = await home.reaches("ready")
    engine = home.engine().engine
    await first.kill9()
    second = await home.waker()

    async def leads() -> bool:
        entry = await home.bus.get(LEASES, subjects.WAKER_LEASE)
        return entry is not None

    await until(leads, bool)
    async with aiohttp.ClientSession() as session, session.get(f"{second.announced.metrics_url}/readyz") as answer:
        assert answer.status == 200
    # It leads and has looked: a machine that dies now is seen by it, and what it wrote follows the record before.
    os.kill(engine or 0, signal.SIGKILL)
    lost = await home.reaches("asleep")
    assert lost.reason.startswith("the engine ended by signal 9: see ")
    assert lost.generation == before.generation
    assert await home.path() == ["asleep", "waking", "ready", "asleep"]
    assert await home.calls() == [("start", "accepted"), ("probe", "accepted")]


async def test_a_waker_killed_while_it_wakes_is_followed_on_the_same_engine(house: House_, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    home = await house("--loading", "--starts", str(starts), waker="wake_cap = '12s'")
    first = await home.waker()
    await home.want()
    await until(home.record, lambda seen: seen is not None and seen[0].phase == "loading")
    await first.kill9()
    await home.waker()
    await home.want()
    asleep = await home.reaches("asleep")
    assert asleep.generation == 1
    assert len(starts.read_text().split()) == 1
    assert await home.path() == ["asleep", "waking", "falling_asleep", "asleep"]


async def test_a_standby_takes_over(house: House_) -> None:
    home = await house()
    first = await home.waker()
    await home.waker()
    await home.want()
    await home.reaches("ready")
    engine = home.engine().engine
    await first.kill9()
    os.kill(engine or 0, signal.SIGKILL)
    await home.reaches("asleep")
    await home.want(2)
    again = await home.reaches("ready")
    assert again.generation == 2


async def test_an_engine_that_dies_is_started_no_more_than_the_limit(house: House_, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    home = await house("--die", "3", "--starts", str(starts), waker="restart_limit = 2\nwake_cap = '60s'")
    await home.waker()
    await home.reaches("asleep")
    await home.want()
    failed = await until(home.record, lambda seen: seen is not None and "limit" in seen[0].reason)
    assert failed is not None
    assert failed[0].state == "asleep"
    reason = failed[0].reason
    assert reason.startswith("the engine ended with exit status 3: see "), reason
    assert reason.endswith("engine.log; started 2 times in this wake, which is the limit"), reason
    assert failed[0].failed_wakes == 1
    assert len(starts.read_text().split()) == 2


async def test_an_engine_that_never_gets_ready_is_ended_at_the_cap(house: House_) -> None:
    home = await house("--loading", "--stubborn", waker="wake_cap = '3s'")
    await home.waker()
    await home.want()
    await home.reaches("falling_asleep")
    engine = home.engine().engine
    assert engine
    asleep = await home.reaches("asleep")
    assert keeper_files.process_start(engine) is None
    assert asleep.state == "asleep"
    assert ("probe", "failed") in await home.calls()


async def test_missing_program_is_named(house: House_) -> None:
    home = await house(command=["no-such-engine", "--port", "{port}"])
    await home.waker()
    await home.want()
    refused = await until(home.record, lambda seen: seen is not None and "no-such-engine" in seen[0].reason)
    assert refused is not None
    assert refused[0].reason == "no program 'no-such-engine': install it, or fix the machine's command"
    assert await home.calls() == [("start", "refused")]


async def test_a_record_of_a_machine_that_is_no_longer_configured_goes(house: House_) -> None:
    home = await house()
    await home.bus.put(FLEET, subjects.machine_key("old"), b"{}")
    await home.waker()
    await home.reaches("asleep")
    assert set(await home.bus.entries(FLEET)) == {"m1"}


async def test_sigterm_leaves_the_engine_running(house: House_) -> None:
    home = await house()
    waker = await home.waker()
    await home.want()
    await home.reaches("ready")
    assert await waker.stop() == 0
    engine = home.engine().engine
    assert engine
    assert keeper_files.process_start(engine) is not None
    os.kill(home.engine().keeper, signal.SIGTERM)
    await ended(engine)


async def test_while_the_bus_is_away_the_engine_serves_on_however_idle(house: House_, nats_server: NatsServer) -> None:
    home = await house(idle="3s")
    waker = await home.waker()
    await home.want()
    ready = await home.reaches("ready")
    await home.want(0)
    nats_server.kill9()
    # Longer than the idle timeout and the lease, and than it takes to drain without gateways: nothing may happen.
    await asyncio.sleep(9)
    engine = home.engine().engine
    assert engine
    assert keeper_files.process_start(engine) is not None
    await asyncio.to_thread(nats_server.start)

    async def connected() -> bool:
        return home.bus.connected

    await until(connected, bool)
    # It leads again, from the record as it was, and gives gateways their time to be heard.
    asleep = await home.reaches("asleep")
    assert asleep.generation == ready.generation
    assert await home.path() == ["asleep", "waking", "ready", "draining", "falling_asleep", "asleep"]
    assert waker.process is not None
    assert waker.process.returncode is None


async def test_a_static_machine_is_ready_once_it_answers(
    bus: JetStreamBus, nats_url: str, tmp_path: Path, scripted_engine: ScriptedEngine
) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text(
        f"""
[bus]
url = "{nats_url}"
[[tier]]
name = "elsewhere"
provider = "static"
[[machine]]
id = "m1"
tier = "elsewhere"
endpoint = "{scripted_engine.base_url}"
[[model]]
name = "anything"
served_as = "{scripted_engine.name}"
lineup = ["elsewhere"]
"""
    )
    async with running("waker", config, tmp_path):

        async def record() -> MachineRecord | None:
            entry = await bus.get(FLEET, subjects.machine_key("m1"))
            return decode(entry.value, MachineRecord) if entry else None

        entry = await until(record, lambda seen: seen is not None)
    assert entry is not None
    assert (entry.state, entry.endpoint) == ("ready", scripted_engine.base_url)
    assert scripted_engine.completion_tokens == 1
