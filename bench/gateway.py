"""`python -m bench.gateway`: what the gateway costs, beside a direct call of the engine, nginx and a naive proxy.

Every answer is checked and every request is looked up in the ledger: a wrong one ends the run with status 1.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bench.build import NoCompiler
from bench.cells import SATURATED, STREAMS_200, Run, cells
from bench.load import Wrong
from bench.targets import staged

SECONDS = 2.0


async def quick(folder: Path, seconds: float) -> None:
    """The two cells that tell of a change, of the gateway alone."""
    async with staged(folder, peers=False) as stage:
        run = Run(stage)
        for name in (SATURATED, STREAMS_200):
            sample = await run.sample(0, name, cells(seconds)[name], stage.ours)
            told, wait = sample.told, sample.wait
            each = (
                f"{sample.cpu_us_per_request:.1f} µs/request, {told.rate:,.0f} requests/s"
                if not told.token_rate
                else f"{sample.cpu_us_per_chunk:.1f} µs/chunk, {told.token_rate:,.0f} chunks/s"
            )
            waited = f"p50 {wait.p50 * 1e3:.2f}, p95 {wait.p95 * 1e3:.2f}, p99 {wait.p99 * 1e3:.2f} ms"
            core = f"core {sample.core:.0%}, others {sample.others:.0%}, settled {sample.settle_seconds:.2f} s"
            print(f"{name}: {each}; {waited}; {core}; {stage.ours.family and stage.ours.family.rss_mb():.0f} MB")
        await run.check()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="per cell and target (default %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="only requests at saturation and 200 streams, of the gateway"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spotinference-bench-") as folder:
        try:
            asyncio.run(quick(Path(folder), asked.seconds))
        except (Wrong, NoCompiler) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
