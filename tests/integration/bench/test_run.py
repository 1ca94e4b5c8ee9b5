"""A short run of the benchmark on the real processes: every figure of every target is there."""

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest

from bench.figures import KINDS
from bench.report import Result
from bench.targets import DIRECT, GATEWAY, NAIVE, NGINX

RUN_SECONDS = 250.0
SHORT = ("--seconds", "0.2", "--rounds", "1", "--held", "300")
OTHERWISE = [
    "TTFT on a kept-alive connection",
    "memory at start",
    "memory after the load",
    "memory, 1,000 streams",
    "memory, 300 held",
    "300 held, released to 64 at once: first answer",
    "300 held, released to 64 at once: all answered",
]


@pytest.mark.long  # a benchmark: it takes the time and the cores that it measures
async def test_a_run_tells_every_figure(tmp_path: Path) -> None:
    file, table = tmp_path / "told.json", tmp_path / "table.md"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.gateway", *SHORT, "--json", str(file), "--markdown", str(table)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(RUN_SECONDS):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    result = msgspec.json.decode(file.read_bytes(), type=Result)
    assert [f.name for f in result.figures][: len(KINDS) + len(OTHERWISE)] == [k.name for k in KINDS] + OTHERWISE
    lines = table.read_text().splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == [
        f"{f.name}, {f.unit}" for f in result.figures
    ]
    assert {s.target for s in result.samples} == {DIRECT, NGINX, NAIVE, GATEWAY}
    assert all({NGINX, NAIVE, GATEWAY} <= set(f.by_target) for f in result.figures[: len(KINDS)])
    assert all(s.cpu_ns > 0 for s in result.samples if s.target != DIRECT)
    spreads = [(f.unit, spread) for f in result.figures for spread in f.by_target.values()]
    assert all(spread.low <= spread.value <= spread.high for _, spread in spreads)
    assert all(spread.value > 0 for unit, spread in spreads if unit != "ms")
