"""`python -m bench.gateway`: what the gateway costs, beside a direct call, nginx, two Rust routers and a naive proxy.

Every answer is checked and every request is looked up in the ledger: a wrong one ends the run with status 1.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from bench import held_requests, nodelay
from bench.build import NoCompiler
from bench.figures import figures
from bench.load import BenchmarkFailed
from bench.report import Result, conditions, markdown, show
from bench.sampler import SATURATED, STREAMS_200, Run, Sample, workloads
from bench.targets import open_stage

ROUNDS = 3
HELD = 10_000
MEMORY_GOAL = 80.0
"""MB after the load."""
SECONDS = 2.0
"""Of a short cell and target; with the default rounds the whole takes less than ten minutes."""

WIDTH = 150
"""Of the tables where there is no terminal."""


async def measure(folder: Path, *, seconds: float, rounds: int, max_held: int) -> Result:
    """Run the whole benchmark.

    Raises:
        BenchmarkFailed: a response or a count was wrong.
    """
    async with open_stage(folder, max_held=max_held) as stage:
        run = Run(stage)
        at_start = held_requests.memory(stage, "memory at start")
        seen, socket_options = await nodelay.check_nodelay(stage, run)
        samples = []
        for number in range(rounds):
            for name, cell in workloads(seconds).items():
                # Rotate the order each round, so that no target always runs at the same moment.
                turn = number % len(stage.targets)
                in_turn = stage.targets[turn:] + stage.targets[:turn]
                samples += [await run.sample(number, name, cell, target) for target in in_turn]
        results = [
            seen,
            *figures(samples),
            at_start,
            held_requests.memory(stage, "memory after the load", goal=MEMORY_GOAL),
            await held_requests.thousand_streams(stage, run),
            *await held_requests.releases(stage, run),
        ]
        await run.check()
        length = f"{rounds} round{'s' * (rounds > 1)} of {seconds:g} s per short cell and target"
        return Result(
            conditions=conditions(stage, length=length, nodelay=socket_options),
            figures=results,
            samples=samples,
            absent=stage.absent,
        )


async def quick(folder: Path, *, seconds: float, workers: int) -> None:
    """Run the two workloads that show a regression first, against the gateway alone with `workers` processes."""
    async with open_stage(folder, workers=workers, peers=False) as stage:
        run = Run(stage)
        for name in (SATURATED, STREAMS_200):
            sample = await run.sample(0, name, workloads(seconds)[name], stage.ours)
            assert stage.ours.family is not None
            print(f"{name}: {_line(sample)}; {stage.ours.family.rss_mb():.0f} MB")
        if len(stage.cores.gateway) < workers:
            print(f"{workers} workers share {len(stage.cores.gateway)} cores here: what they do alone cannot be seen")
        await run.check()


def _line(sample: Sample) -> str:
    result, wait = sample.result, sample.wait
    if result.token_rate:
        cost = f"{sample.cpu_us_per_chunk:.1f} µs/chunk, {result.token_rate:,.0f} chunks/s"
    else:
        cost = f"{sample.cpu_us_per_request:.1f} µs/request, {result.rate:,.0f} requests/s"
    waits = f"p50 {wait.p50 * 1e3:.2f}, p95 {wait.p95 * 1e3:.2f}, p99 {wait.p99 * 1e3:.2f} ms"
    return f"{cost}; {waits}; core {sample.core:.0%}, others {sample.others:.0%}, settled {sample.settle_seconds:.2f} s"


async def _run(options: argparse.Namespace, folder: Path) -> None:
    if options.quick or options.workers > 1:
        await quick(folder, seconds=options.seconds, workers=options.workers)
        return
    result = await measure(folder, seconds=options.seconds, rounds=options.rounds, max_held=options.held)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    if options.markdown is not None:
        options.markdown.write_text(markdown(result) + "\n", "utf-8")
    show(result, Console(width=None if sys.stdout.isatty() else WIDTH))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a short cell and target (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is measured (%(default)s)")
    parser.add_argument("--held", type=int, default=HELD, help="requests held at once (%(default)s)")
    parser.add_argument("--json", type=Path, help="write conditions, figures and samples to this file")
    parser.add_argument("--markdown", type=Path, help="write the table of figures to this file")
    parser.add_argument("--quick", action="store_true", help="the gateway alone, saturated and with 200 streams")
    parser.add_argument("--workers", type=int, default=1, help="as --quick, with so many processes that share the port")
    options = parser.parse_args()
    if min(options.seconds, options.rounds, options.held, options.workers) <= 0:
        parser.error("--seconds, --rounds, --held and --workers are greater than 0")
    with tempfile.TemporaryDirectory(prefix="spotinference-bench-") as folder:
        try:
            asyncio.run(_run(options, Path(folder)))
        except (BenchmarkFailed, NoCompiler) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
