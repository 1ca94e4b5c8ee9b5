"""`python -m bench.site`: how fast the site serves its pages, and whether a hundred readers slow the gateway.

The gateway, its bus, meter and engine are those of `bench.gateway`, with the gateway alone on its core. Rounds with and
without readers alternate, so that both see the same machine.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp
from rich.console import Console
from rich.table import Table

from bench.build import NoCompiler
from bench.load import BenchmarkFailed, LoadResult, Workload
from bench.processes import pinned
from bench.targets import Stage, open_stage
from shared.percentiles import nearest_rank
from shared.tasks import cancel_and_wait
from tests.kit.service import running

PAGES = ("/", "/status", "/economics", "/pricing", "/performance", "/reliability", "/learn", "/glossary")
READERS = 100
PAUSE_SECONDS = 1.0
"""Between two pages of a reader."""
GETS = 300
"""Of each page, one after another."""
PAGE_GOAL_SECONDS = 0.020
"""At P95, from the cache."""
SLOWER_GOAL = 1.10
"""The gateway's P95 with readers ÷ without, at the median of the rounds."""
RATE = 50.0


async def measure_pages(url: str) -> dict[str, float]:
    """Return the P95 of each page's duration in seconds. The first answer, which fills the cache, does not count."""
    percentiles: dict[str, float] = {}
    async with aiohttp.ClientSession(url) as client:
        for path in PAGES:
            durations: list[float] = []
            for _ in range(GETS + 1):
                began = time.perf_counter()
                async with client.get(path) as response:
                    if response.status != 200:
                        raise BenchmarkFailed(f"{path} answered {response.status}")
                    await response.read()
                durations.append(time.perf_counter() - began)
            percentiles[path] = sorted(durations[1:])[nearest_rank(0.95, GETS)]
    return percentiles


@asynccontextmanager
async def readers(url: str) -> AsyncIterator[list[int]]:
    """A hundred people who read page after page; yields how many pages they have read."""
    pages = [0]

    async def read(number: int, client: aiohttp.ClientSession) -> None:
        await asyncio.sleep(PAUSE_SECONDS * number / READERS)
        while True:
            async with client.get(PAGES[(number + pages[0]) % len(PAGES)]) as response:
                await response.read()
            pages[0] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=READERS)) as client:
        tasks = [asyncio.create_task(read(number, client)) for number in range(READERS)]
        try:
            yield pages
            failed = next((task for task in tasks if task.done()), None)
            if failed is not None:
                raise BenchmarkFailed(f"a reader stopped: {failed.exception()!r}")
        finally:
            await cancel_and_wait(tasks)


def p95_of(result: LoadResult) -> float:
    if result.latency is None:
        raise BenchmarkFailed("the load measured no latency")
    return result.latency.p95


async def measure_gateway(stage: Stage, url: str, *, rounds: int, seconds: float) -> tuple[list[float], list[float]]:
    """Return the gateway's P95 in seconds of each round, without and with readers."""
    load = Workload(kind="open", connections=50, seconds=seconds, rate=RATE)
    quiet: list[float] = []
    busy: list[float] = []
    for _ in range(rounds):
        quiet.append(p95_of(await stage.run(stage.ours, load)))
        async with readers(url) as pages:
            busy.append(p95_of(await stage.run(stage.ours, load)))
        if not pages[0]:
            raise BenchmarkFailed("nobody read a page")
    return quiet, busy


async def measure(folder: Path, *, rounds: int, seconds: float) -> bool:
    """Measure, print, and return whether the goals are met."""
    async with open_stage(folder, peers=False) as stage:
        place = folder / "site"
        place.mkdir()
        config = place / "spotinference.toml"
        config.write_text((folder / "spotinference.toml").read_text("utf-8") + "[site]\nport = 0\nmetrics_port = 0\n")
        with pinned(stage.cores.others):
            async with running("site", config, place) as site:
                pages = await measure_pages(site.announced.url)
                quiet, busy = await measure_gateway(stage, site.announced.url, rounds=rounds, seconds=seconds)
    slower = median(busy) / median(quiet)
    table = Table("measured", "value", "goal", "met")
    worst = max(pages, key=lambda path: pages[path])
    rows = (
        (f"P95 of the slowest page, {worst}", f"{pages[worst] * 1e3:.2f} ms", PAGE_GOAL_SECONDS * 1e3, "ms"),
        (f"gateway's P95 with {READERS} readers ÷ without", f"{slower:.3f}", SLOWER_GOAL, ""),
    )
    met = (pages[worst] < PAGE_GOAL_SECONDS, slower <= SLOWER_GOAL)
    for (name, value, goal, unit), is_met in zip(rows, met, strict=True):
        table.add_row(name, value, f"{goal:g} {unit}".strip(), "yes" if is_met else "no")
    for name, values in (("without readers", quiet), ("with readers", busy)):
        table.add_row(f"gateway's P95 {name}, each round", ", ".join(f"{v * 1e3:.2f}" for v in values) + " ms", "", "")
    Console().print(table)
    return all(met)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.site", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="with and without readers (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one round (%(default)s)")
    options = parser.parse_args()
    if min(options.rounds, options.seconds) <= 0:
        parser.error("--rounds and --seconds are greater than 0")
    with tempfile.TemporaryDirectory(prefix="spotinference-bench-") as folder:
        try:
            return 0 if asyncio.run(measure(Path(folder), rounds=options.rounds, seconds=options.seconds)) else 1
        except (BenchmarkFailed, NoCompiler) as error:
            print(error, file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
