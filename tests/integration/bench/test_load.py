"""The engine and the load in C: good answers are measured, wrong ones are seen, and no request's wait is left out."""

import asyncio
import importlib.util
import sys
from pathlib import Path

import aiohttp
import pytest

from bench import build, nodelay
from bench.cluster import SERVED_AS
from bench.load import BenchmarkFailed, LoadResult, Workload, run_load
from bench.processes import ProcessTree
from tests.integration.bench.lying_engine import engine_port, engine_process, running_lying_engine
from tests.kit.waiting import until

WHOLE = Workload(kind="closed", connections=2, seconds=0.1, warm=0)
STREAM = Workload(kind="closed", connections=2, seconds=0.1, warm=0, tokens=5)
REQUESTED = Workload(kind="closed", connections=2, seconds=0.1, warm=0, tokens=5, usage=1)
EACH = Workload(kind="closed", connections=2, seconds=0.1, warm=0, tokens=5, usage=2)


async def _played(cell: Workload, port: int, folder: Path, model: str = SERVED_AS) -> LoadResult:
    return await run_load(cell, port=port, key="k", model=model, log=folder / "load.log")


@pytest.mark.parametrize("cell", [WHOLE, STREAM, REQUESTED, EACH])
async def test_a_good_answer_is_measured(cell: Workload, tmp_path: Path) -> None:
    async with engine_port(tmp_path) as port:
        result = await _played(cell, port, tmp_path)
    assert result.requests > 0
    assert result.tokens == result.requests * (cell.tokens or 16)
    assert result.latency is not None
    assert 0 < result.latency.least <= result.latency.p50 <= result.latency.p99 <= result.latency.most
    assert (result.first is not None) == bool(cell.tokens)


@pytest.mark.parametrize(
    ("cell", "change", "fault"),
    [
        (WHOLE, (b" w7 ", b" w8 "), "other text"),
        (WHOLE, (b'_tokens":16}', b'_tokens":17}'), "other usage"),
        (WHOLE, (b"200 OK", b"500 OK"), "not status 200"),
        (STREAM, (b'" w3 ', b'" w2 '), "doubled"),
        (STREAM, (b"data: [DONE]", b"data: [DENO]"), "doubled"),
        (STREAM, (b"data: [DONE]", b": says [DONE]"[:12]), "without [DONE]"),
        (STREAM, (b'"token_ids":null', b'"usage":{"ab":1}'), "a usage after 1"),
        (STREAM, (b'"token_ids":null', b'"choices":[]    '), "a chunk without choices"),
        (STREAM, (b"\r\n0\r\n", b"\r\n!\r\n"), "no chunk size"),
        (REQUESTED, (b'"completion_tokens":5', b'"completion_tokens":4'), "other usage than 5"),
        (REQUESTED, (b'"usage"', b'"usagf"'), "no usage after 5"),
        (REQUESTED, (b"data: [DONE]", b": says [DONE]"[:12]), "without [DONE]"),
        (EACH, (b'"completion_tokens":2', b'"completion_tokens":1'), "other usage than 2"),
    ],
)
async def test_a_wrong_answer_is_seen(cell: Workload, change: tuple[bytes, bytes], fault: str, tmp_path: Path) -> None:
    async with running_lying_engine(tmp_path, change) as lying_engine:
        with pytest.raises(BenchmarkFailed) as caught:
            await _played(cell, lying_engine.port, tmp_path)
    assert fault in str(caught.value)


async def test_a_lost_connection_is_seen(tmp_path: Path) -> None:
    async with running_lying_engine(tmp_path, cut=True) as lying_engine:
        with pytest.raises(BenchmarkFailed, match="connection lost after 2 tokens"):
            await _played(STREAM, lying_engine.port, tmp_path)


async def test_another_model_is_refused(tmp_path: Path) -> None:
    async with engine_port(tmp_path) as port:
        with pytest.raises(BenchmarkFailed, match="404"):
            await _played(WHOLE, port, tmp_path, model="other")


async def test_requests_that_a_stall_keeps_back_count_from_when_they_were_planned(tmp_path: Path) -> None:
    cell = Workload(kind="open", connections=1, rate=50, seconds=1, warm=0)
    async with running_lying_engine(tmp_path, stall=0.5) as lying_engine:
        result = await _played(cell, lying_engine.port, tmp_path)
    assert result.latency is not None
    assert result.requests == result.latency.count == 50
    # Only one answer was late; the 24 behind it were asked late.
    assert result.latency.most >= 0.5
    assert result.latency.p95 >= 0.4


async def test_the_engine_survives_clients_that_vanish(tmp_path: Path) -> None:
    body = b'{"model":"%b","stream":true,"max_tokens":1000,"vllm_xargs":{"interval_ms":1}}' % SERVED_AS.encode()
    async with engine_port(tmp_path) as port:
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await reader.readuntil(b" w2")
            writer.transport.abort()
        result = await _played(STREAM, port, tmp_path)
    assert result.requests > 0


async def test_the_engine_serves_health_and_models_to_routers(tmp_path: Path) -> None:
    async with engine_port(tmp_path) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/health") as response:
            assert (response.status, await response.read()) == (200, b"")
        async with session.get("/v1/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == [SERVED_AS]
        async with session.get("/else") as response:
            assert response.status == 404


# How long the other side waits with its acknowledgement is the kernel's: a busy machine hides it.
@pytest.mark.parametrize("words", [(), pytest.param(("nagle",), marks=pytest.mark.long)])
async def test_a_missing_nodelay_is_seen_on_the_wire_and_on_the_socket(words: tuple[str, ...], tmp_path: Path) -> None:
    async with engine_process(tmp_path, *words) as (port, pid):
        running_load = asyncio.create_task(_played(nodelay.KEPT_ALIVE, port, tmp_path))

        async def seen() -> list[bool]:
            return [option for own, _, option in nodelay.sockets(ProcessTree(pid)) if own == port]

        options = await until(seen, bool)
        result = await running_load
    assert options == [not words]
    assert nodelay.waits_for_ack(result) == bool(words)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)


@pytest.mark.usefixtures("no_compiler")
async def test_it_names_the_fix_when_there_is_no_compiler() -> None:
    with pytest.raises(build.NoCompiler, match="install gcc or clang, or `pip install ziglang`"):
        build.compile_program("load")


@pytest.mark.usefixtures("no_compiler")
async def test_it_takes_the_compiler_of_the_wheel_when_the_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "ziglang")
    assert build.find_compiler() == (sys.executable, "-m", "ziglang", "cc")
