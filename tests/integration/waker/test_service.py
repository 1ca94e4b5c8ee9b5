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
from tests.integration.waker.conftest import ClusterBuilder
from tests.kit.nats_server import NatsServer
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.service import running
from tests.kit.waiting import until


async def ended(pid: int) -> None:
    async def observe() -> bool:
        return keeper_files.process_start(pid) is not None

    await until(observe, lambda alive: not alive)


async def test_demand_wakes_and_idleness_puts_to_sleep(build_cluster: ClusterBuilder, tmp_path: Path) -> None:
    requests = tmp_path / "requests"
    cluster = await build_cluster("--request-log", str(requests), idle="500ms")
    await cluster.waker()
    assert (await cluster.reaches("asleep")).reason == "seen for the first time"
    await cluster.want()
    ready = await cluster.reaches("ready")
    assert ready.endpoint == f"http://127.0.0.1:{cluster.engine().port}"
    assert (ready.generation, ready.phase, ready.key_id) == (1, None, "key-1")
    probe = json.loads(requests.read_text())
    assert (probe["path"], probe["model"], probe["max_tokens"]) == ("/v1/completions", "the-engines-name", 1)
    await cluster.want(0)
    gateway = asyncio.create_task(cluster.acknowledge())
    asleep = await cluster.reaches("asleep")
    gateway.cancel()
    assert (asleep.endpoint, asleep.wake_id) == (None, None)
    assert await cluster.path() == ["asleep", "waking", "ready", "draining", "falling_asleep", "asleep"]
    assert await cluster.calls() == [
        ("start", "accepted"),
        ("probe", "accepted"),
        ("count_requests", "unknown"),
        ("stop", "accepted"),
    ]
    journal = await cluster.journal()
    assert [entry.tokens for entry in journal if isinstance(entry, ProviderCall)] == [0, 3, 0, 0]
    wakes = {entry.wake_id for entry in journal if isinstance(entry, Transition)}
    assert len(wakes) == 2  # none at first sight, and one from then on


async def test_chat_only_engine_is_probed_by_chat(build_cluster: ClusterBuilder, tmp_path: Path) -> None:
    requests = tmp_path / "requests"
    cluster = await build_cluster("--chat-only", "--request-log", str(requests))
    await cluster.waker()
    await cluster.want()
    await cluster.reaches("ready")
    assert [json.loads(line)["path"] for line in requests.read_text().splitlines()] == [
        "/v1/completions",
        "/v1/chat/completions",
    ]


async def test_demand_from_before_the_waker_counts(build_cluster: ClusterBuilder) -> None:
    cluster = await build_cluster()
    await cluster.want()
    await cluster.waker()
    await cluster.reaches("ready")


async def test_a_killed_waker_leaves_the_engine_and_the_next_takes_it_over(build_cluster: ClusterBuilder) -> None:
    cluster = await build_cluster()
    first = await cluster.waker()
    await cluster.want()
    before = await cluster.reaches("ready")
    engine = cluster.engine().engine
    await first.kill9()
    second = await cluster.waker()

    async def leads() -> bool:
        entry = await cluster.bus.get(LEASES, subjects.WAKER_LEASE)
        return entry is not None

    await until(leads, bool)
    async with aiohttp.ClientSession() as session, session.get(f"{second.announced.metrics_url}/readyz") as answer:
        assert answer.status == 200
    # It leads and has looked: a machine that dies now is seen by it, and what it wrote follows the record before.
    os.kill(engine or 0, signal.SIGKILL)
    lost = await cluster.reaches("asleep")
    assert lost.reason.startswith("the engine ended by signal 9: see ")
    assert lost.generation == before.generation
    assert await cluster.path() == ["asleep", "waking", "ready", "asleep"]
    assert await cluster.calls() == [("start", "accepted"), ("probe", "accepted")]


async def test_a_waker_killed_while_it_wakes_is_followed_on_the_same_engine(
    build_cluster: ClusterBuilder, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    cluster = await build_cluster("--loading", "--starts", str(starts), waker="wake_cap = '12s'")
    first = await cluster.waker()
    await cluster.want()
    await until(cluster.record, lambda seen: seen is not None and seen[0].phase == "loading")
    await first.kill9()
    await cluster.waker()
    await cluster.want()
    asleep = await cluster.reaches("asleep")
    assert asleep.generation == 1
    assert len(starts.read_text().split()) == 1
    assert await cluster.path() == ["asleep", "waking", "falling_asleep", "asleep"]


async def test_a_standby_takes_over(build_cluster: ClusterBuilder) -> None:
    cluster = await build_cluster()
    first = await cluster.waker()
    await cluster.waker()
    await cluster.want()
    await cluster.reaches("ready")
    engine = cluster.engine().engine
    await first.kill9()
    os.kill(engine or 0, signal.SIGKILL)
    await cluster.reaches("asleep")
    await cluster.want(2)
    again = await cluster.reaches("ready")
    assert again.generation == 2


async def test_an_engine_that_dies_is_started_no_more_than_the_limit(
    build_cluster: ClusterBuilder, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    cluster = await build_cluster("--die", "3", "--starts", str(starts), waker="restart_limit = 2\nwake_cap = '60s'")
    await cluster.waker()
    await cluster.reaches("asleep")
    await cluster.want()
    failed = await until(cluster.record, lambda seen: seen is not None and "limit" in seen[0].reason)
    assert failed is not None
    assert failed[0].state == "asleep"
    reason = failed[0].reason
    assert reason.startswith("the engine ended with exit status 3: see "), reason
    assert reason.endswith("engine.log; started 2 times in this wake, which is the limit"), reason
    assert failed[0].failed_wakes == 1
    assert len(starts.read_text().split()) == 2


async def test_an_engine_that_never_gets_ready_is_ended_at_the_cap(build_cluster: ClusterBuilder) -> None:
    cluster = await build_cluster("--loading", "--stubborn", waker="wake_cap = '3s'")
    await cluster.waker()
    await cluster.want()
    await cluster.reaches("falling_asleep")
    engine = cluster.engine().engine
    assert engine
    asleep = await cluster.reaches("asleep")
    assert keeper_files.process_start(engine) is None
    assert asleep.state == "asleep"
    assert ("probe", "failed") in await cluster.calls()


async def test_missing_program_is_named(build_cluster: ClusterBuilder) -> None:
    cluster = await build_cluster(command=["no-such-engine", "--port", "{port}"])
    await cluster.waker()
    await cluster.want()
    refused = await until(cluster.record, lambda seen: seen is not None and "no-such-engine" in seen[0].reason)
    assert refused is not None
    assert refused[0].reason == "no program 'no-such-engine': install it, or fix the machine's command"
    assert await cluster.calls() == [("start", "refused")]


async def test_a_record_of_a_machine_that_is_no_longer_configured_goes(build_cluster: ClusterBuilder) -> None:
    cluster = await build_cluster()
    await cluster.bus.put(FLEET, subjects.machine_key("old"), b"{}")
    await cluster.waker()
    await cluster.reaches("asleep")
    assert set(await cluster.bus.entries(FLEET)) == {"m1"}


async def test_sigterm_leaves_the_engine_running(build_cluster: ClusterBuilder) -> None:
    cluster = await build_cluster()
    waker = await cluster.waker()
    await cluster.want()
    await cluster.reaches("ready")
    assert await waker.stop() == 0
    engine = cluster.engine().engine
    assert engine
    assert keeper_files.process_start(engine) is not None
    os.kill(cluster.engine().keeper, signal.SIGTERM)
    await ended(engine)


async def test_while_the_bus_is_away_the_engine_serves_on_however_idle(
    build_cluster: ClusterBuilder, nats_server: NatsServer
) -> None:
    cluster = await build_cluster(idle="3s")
    waker = await cluster.waker()
    await cluster.want()
    ready = await cluster.reaches("ready")
    await cluster.want(0)
    nats_server.kill9()
    # Longer than the idle timeout and the lease, and than it takes to drain without gateways: nothing may happen.
    await asyncio.sleep(9)
    engine = cluster.engine().engine
    assert engine
    assert keeper_files.process_start(engine) is not None
    await asyncio.to_thread(nats_server.start)

    async def connected() -> bool:
        return cluster.bus.connected

    await until(connected, bool)
    # It leads again, from the record as it was, and gives gateways their time to be heard.
    asleep = await cluster.reaches("asleep")
    assert asleep.generation == ready.generation
    assert await cluster.path() == ["asleep", "waking", "ready", "draining", "falling_asleep", "asleep"]
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
