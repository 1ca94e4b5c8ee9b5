"""A short run of the benchmark on the real processes: every figure of every target is there, or why it is not."""

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest

from bench.figures import KINDS
from bench.report import Result, grids
from bench.targets import DIRECT, OURS, TARGETS

RUN_SECONDS = 250.0
SHORT = ("--seconds", "0.2", "--rounds", "1", "--held", "300")
OTHERWISE = {
    "TTFT on a kept-alive connection",
    "memory at start",
    "memory after the load",
    "memory under 1,000 streams",
    "memory, 300 held",
    "300 held, released to 64 at once: first answer",
    "300 held, released to 64 at once: all answered",
}


@pytest.mark.long  # a benchmark: it takes the time and the cores that it measures
async def test_a_run_reports_every_figure(tmp_path: Path) -> None:
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
    assert {kind.name for kind in KINDS} | OTHERWISE <= {f.name for f in result.figures}
    assert result.absent == {}
    text = table.read_text()
    assert all("| " + " | ".join(row) + " |\n" in text for grid in grids(result) for row in grid.rows)
    assert {s.target for s in result.samples} == set(TARGETS)
    by_kind = {f.name: f.by_target for f in result.figures if f.name in {kind.name for kind in KINDS}}
    assert all(set(TARGETS) - {DIRECT} <= set(targets) for targets in by_kind.values())
    assert all(s.cpu_ns > 0 for s in result.samples if s.target != DIRECT)
    assert all(OURS in f.by_target for f in result.figures if f.goal is not None)
    spreads = [spread for f in result.figures for spread in f.by_target.values()]
    assert all(spread.low <= spread.value <= spread.high for spread in spreads)
    costs = ("CPU", "memory")  # a rate may be 0 in so short a cell on a busy machine
    positive = [f for f in result.figures if f.name.startswith(costs)]
    assert all(spread.value > 0 for f in positive for spread in f.by_target.values())
