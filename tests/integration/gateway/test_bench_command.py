"""`spotinference bench` through a real gateway and against scripted engines whose pace is known."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from subprocess import PIPE
from typing import Any

import aiohttp
import msgspec
import pytest
from click.testing import CliRunner, Result

from shared.bus.jetstream import JetStreamBus
from shared.messages.bench import BenchRun
from shared.messages.codec import decode
from spotinference.__main__ import main
from spotinference.bench import run_store
from spotinference.bench.load import WARM_UP_REQUESTS
from spotinference.bench.streamed_request import Target, send_request
from tests.integration.gateway.conftest import MODEL, Front
from tests.kit.engine import Engine
from tests.kit.scripted_engine import NAME, Script, ScriptedEngine, scripted

Opened = Callable[..., Awaitable[Front]]
SMALL = ("--concurrency", "4", "--requests", "10", "--tokens", "20", "--prompt-tokens", "30")
PAIRS = 20
INTERVAL = 0.004
WARM = 1 + WARM_UP_REQUESTS


async def bench(front: Front, *words: str, key: str | None = None) -> Result:
    options = ("--config", str(front.folder / "spotinference.toml"), "--data-dir", str(front.folder))
    environment = {"SPOTINFERENCE_KEY": front.key if key is None else key}
    command = ["bench", "--url", front.url, *words, *options]
    return await asyncio.to_thread(CliRunner(env=environment).invoke, main, command)


async def measured(front: Front, *words: str) -> dict[str, Any]:
    result = await bench(front, *SMALL, *words, "--json")
    assert result.exit_code == 0, (result.stdout, result.stderr)
    reported: dict[str, Any] = json.loads(result.stdout)
    return reported


@pytest.fixture
async def front(opened: Opened, scripted_engine: ScriptedEngine) -> Front:
    scripted_engine.default = Script(tokens=20, interval=INTERVAL, prompt_tokens=31)
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen()
    return front


async def test_both_ways_are_measured_by_turns_and_the_run_is_kept(
    front: Front, scripted_engine: ScriptedEngine, bus: JetStreamBus
) -> None:
    reported = await measured(front, "--publish")
    assert (reported["model"], reported["machine"], reported["tier"], reported["machines"]) == (MODEL, "m1", "first", 1)
    assert reported["engine"] == "vllm"
    assert reported["load"] == {
        "concurrency": 4,
        "requests": 10,
        "rounds": 2,
        "prompt_tokens": 30,
        "tokens": 20,
        "ignore_eos": True,
        "pairs": PAIRS,
    }
    for side in (reported["gateway"], reported["direct"]):
        assert (side["requests"], side["failed"]) == (10, 0)
        assert (side["prompt_tokens"], side["completion_tokens"]) == (310, 200)
        assert side["rate"] == pytest.approx(200 / side["seconds"])
        # The engine waits so long before each token, and half of ten streams, four at once, had 19 pauses so long.
        assert INTERVAL * 0.9 < side["tpot"]["p50"] <= 4 * side["seconds"] / (5 * 19)
        assert side["stream_rate"]["p50"] == pytest.approx(1 / side["tpot"]["p50"], rel=0.9)
    assert scripted_engine.most_running == 4
    assert reported["added"]["count"] == PAIRS
    engine_requests = scripted_engine.requests
    assert len(engine_requests) == 2 * (WARM + 10 + PAIRS)
    assert len(await front.usage(WARM + 10 + PAIRS)) == WARM + 10 + PAIRS, "the other half went past the gateway"
    assert {seen.body["model"] for seen in engine_requests} == {NAME}
    assert {(seen.body["temperature"], seen.body["ignore_eos"], seen.body["stream"]) for seen in engine_requests} == {
        (0, True, True)
    }
    through = ["g" if "x-request-id" in seen.headers else "d" for seen in engine_requests]
    assert "".join(through) == WARM * "g" + WARM * "d" + 5 * "g" + 10 * "d" + 5 * "g" + PAIRS // 2 * "gddg"
    prompts = [seen.body["messages"][0]["content"] for seen in engine_requests]
    assert len({prompt.split()[0] for prompt in prompts}) == len(prompts), "no prompt begins like another"
    (kept,) = await run_store.list_runs(bus)
    assert (kept.id, kept.published_at) == (reported["id"], kept.at)
    listed = json.loads((await bench(front, "--list", "--json")).stdout)["runs"]
    assert listed == [reported]


async def test_added_latency_is_the_difference_of_both_ways(front: Front, scripted_engine: ScriptedEngine) -> None:
    """The engine behind the gateway is late by a known time, the one asked directly is not."""
    scripted_engine.default = Script(tokens=20, headers_after=0.2)
    async with scripted() as quick:
        quick.default = Script(tokens=20)
        reported = await measured(front, "--direct", quick.base_url)
    assert (reported["machine"], reported["tier"]) == (None, None)
    assert 0.15 < reported["added"]["p50"] < 1.0
    assert reported["gateway"]["ttft"]["p50"] - reported["direct"]["ttft"]["p50"] > 0.1
    assert reported["direct"]["ttft"]["p50"] < 0.2


async def test_figures_with_failures_are_kept_and_not_published(
    front: Front, scripted_engine: ScriptedEngine, bus: JetStreamBus
) -> None:
    fine = Script(tokens=5)
    scripted_engine.default = fine
    scripted_engine.scripts.extend([*[fine] * (2 * WARM), *[Script(status=400)] * 3])
    result = await bench(front, *SMALL, "--publish", "--json")
    assert result.exit_code == 1
    assert "not published" in result.stderr
    assert "3 requests failed" in result.stderr
    (kept,) = await run_store.list_runs(bus)
    assert (kept.gateway.failed + kept.direct.failed, kept.published_at) == (3, None)
    assert kept.gateway.completion_tokens + kept.direct.completion_tokens == 5 * (20 - 3)


async def test_ignore_eos_is_dropped_for_an_engine_that_rejects_it(
    front: Front, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.scripts.append(Script(status=400))
    reported = await measured(front)
    assert reported["load"]["ignore_eos"] is False
    assert "ignore_eos" not in scripted_engine.requests[1].body


async def test_an_incomplete_response_is_a_fault(front: Front, scripted_engine: ScriptedEngine) -> None:
    directly = Target(origin=scripted_engine.base_url, model=NAME)
    through = Target(origin=front.url, model=MODEL, key=front.key)
    async with aiohttp.ClientSession() as session:
        for script, direct_reason, gateway_reason in (
            (Script(tokens=9, cut_after=3), "the stream ended without", "engine_lost"),
            (Script(tokens=9, reset_after=3), "Client", "engine_lost"),
            (Script(tokens=0), "the stream had no tokens", "the stream had no tokens"),
            (Script(status=400, message="too long"), "too long", "too long"),
        ):
            scripted_engine.default = script
            for target, reason in ((directly, direct_reason), (through, gateway_reason)):
                shot = await send_request(session, target, "hi", 9, ignore_eos=True)
                assert shot.fault is not None
                assert reason in shot.fault


async def test_closed_kept_connections_are_replaced_by_new_ones(engine: Engine) -> None:
    """llama.cpp's does after each stream, and a client that is at once again meets the closing."""
    target = Target(origin=engine.base_url, model="tiny")
    async with aiohttp.ClientSession() as session:
        shots = [await send_request(session, target, f"hi {n}", 2, ignore_eos=True) for n in range(20)]
    assert [shot.fault for shot in shots] == [None] * 20
    assert all(shot.first is not None and shot.sent < shot.first for shot in shots)


async def test_an_engine_that_never_answers_is_tried_twice() -> None:
    connections = 0

    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(closes, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, aiohttp.ClientSession() as session:
        shot = await send_request(session, Target(origin=origin, model="m"), "hi", 2, ignore_eos=True)
    assert (shot.fault, shot.status, connections) == ("a new connection was closed without a response", 0, 2)


async def test_unmeasurable_figures_are_reported_as_such(front: Front, bus: JetStreamBus) -> None:
    nowhere = ("--direct", "http://127.0.0.1:1")
    for words, key, reason in (
        ((), "sk-wrong", "401"),
        (("--model", "other"), None, "no [[model]] is named 'other'"),
        (("--machine", "m2"), None, "'m2' is not a machine that serves 'org/model' now; machines that do: m1"),
        (("--machine", "m1", *nowhere), None, "cannot be combined"),
        (nowhere, None, "http://127.0.0.1:1 does not answer"),
        ((), "", "no API key"),
    ):
        result = await bench(front, *SMALL, *words, key=key)
        assert result.exit_code == 1, result.stdout
        assert reason in result.stderr
    assert await run_store.list_runs(bus) == []


async def test_two_machines_are_reported_as_a_caveat(front: Front, scripted_engine: ScriptedEngine) -> None:
    async with scripted() as second:
        second.default = Script(tokens=20)
        await front.machine("m2", "ready", second.base_url)
        result = await bench(front, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "2 machines serve" in result.stderr
    assert "added to the first token" in result.stdout


async def test_of_runs_that_nobody_published_the_newest_are_kept(
    bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch, example_run: BenchRun
) -> None:
    monkeypatch.setattr(run_store, "MAX_UNPUBLISHED", 2)
    for number in range(5):
        published = 1.0 if number == 0 else None
        run = msgspec.structs.replace(example_run, id=f"r{number}", at=float(number), published_at=published)
        await run_store.store_run(bus, run)
    assert [run.id for run in await run_store.list_runs(bus)] == ["r4", "r3", "r0"]


@pytest.fixture
def example_run() -> BenchRun:
    from tests.contract.test_messages import FOLDER

    return decode((FOLDER / "bench_run.v1.json").read_bytes(), BenchRun)


async def running_bench(front: Front, *words: str) -> asyncio.subprocess.Process:
    options = ("--config", str(front.folder / "spotinference.toml"), "--data-dir", str(front.folder))
    # What a job in the background starts ignores Ctrl-C, unless it is told otherwise.
    arrived = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = (sys.executable, "-c", f"{arrived}from spotinference.__main__ import main; main()")
    words = ("bench", "--url", front.url, "--requests", "10", "--concurrency", "1", "--tokens", "20", *words, *options)
    environment = {**os.environ, "SPOTINFERENCE_KEY": front.key}
    return await asyncio.create_subprocess_exec(*command, *words, env=environment, stdout=PIPE, stderr=PIPE)


async def test_ctrl_c_shows_the_figures_so_far(
    front: Front, scripted_engine: ScriptedEngine, bus: JetStreamBus
) -> None:
    scripted_engine.default = Script(hold_after=1)
    scripted_engine.scripts.extend([Script(tokens=20)] * (2 * WARM + 8))
    process = await running_bench(front, "--json")
    await scripted_engine.received(2 * WARM + 9)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == 1, err.decode()
    assert out, err.decode()
    reported = json.loads(out)
    assert reported["stopped"] is True
    # Rounds of three by turns: gateway, direct, direct, which was stopped after two.
    assert (reported["gateway"]["requests"], reported["direct"]["requests"]) == (3, 5)
    assert (reported["gateway"]["completion_tokens"], reported["direct"]["completion_tokens"]) == (60, 100)
    assert reported["added"] is None
    assert b"stopped after 8 of 20 requests; these figures are not stored" in err
    assert await run_store.list_runs(bus) == []


async def test_ctrl_c_before_the_first_measurement_is_reported(front: Front, scripted_engine: ScriptedEngine) -> None:
    scripted_engine.default = Script(hold_after=0)
    process = await running_bench(front)
    await scripted_engine.received(1)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert b"stopped before anything was measured" in err
