"""`python -m bench.site`: how fast the site serves its pages, and whether a hundred readers slow the gateway.

The gateway, its bus, meter and engine are those of `bench.gateway`. What the readers read shares the gateway's core, as
on a host whose cores are all busy; the readers, the load and the engine are elsewhere. Three kinds of rounds alternate:
without readers; with readers of nginx, to see what a hundred connections cost by themselves; and with readers of the
site.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from statistics import median

import aiohttp
from rich.console import Console
from rich.table import Table

from bench.build import NoCompiler
from bench.load import BenchmarkFailed, Workload
from bench.processes import ProcessTree, busy_ns, child, own_ns, pinned
from bench.readers import PAUSE_SECONDS
from bench.static_files import static_files
from bench.targets import Stage, open_stage
from shared.percentiles import nearest_rank
from tests.kit.service import running

PAGES = ("/", "/status", "/economics", "/pricing", "/performance", "/reliability", "/learn", "/glossary")
GETS = 300
"""Of each page, one after another."""
PAGE_GOAL_SECONDS = 0.020
"""At P95, from the cache."""
SLOWER_GOAL = 1.10
"""The gateway's P95 with readers of the site ÷ without readers, at the medians of the rounds."""
RATE = 50.0
NOBODY, NGINX, SITE = "no readers", "readers of nginx", "readers of the site"
READERS_END_SECONDS = 60.0
NOISE = 0.1
"""Cores that other processes may take in a round; beyond it, the round is measured again."""
QUIET_SECONDS = 0.5
"""How long the machine has to be quiet before a round begins."""
MACHINE = frozenset(range(os.cpu_count() or 1))


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


async def _compressed_pages(url: str) -> dict[str, bytes]:
    pages: dict[str, bytes] = {}
    async with aiohttp.ClientSession(url, headers={"Accept-Encoding": "gzip"}, auto_decompress=False) as client:
        for path in PAGES:
            async with client.get(path) as response:
                pages[path] = await response.read()
    return pages


@asynccontextmanager
async def _readers(stage: Stage, origin: str) -> AsyncIterator[None]:
    log = stage.folder / "readers.log"
    with pinned(stage.cores.others):
        async with child(sys.executable, "-m", "bench.readers", origin, *PAGES, log=log) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await asyncio.sleep(2 * PAUSE_SECONDS)  # until each of them has begun
            yield
            process.stdin.close()
            if not int(await asyncio.wait_for(process.stdout.readline(), READERS_END_SECONDS) or 0):
                raise BenchmarkFailed(f"nobody read a page: {log.read_text('utf-8')[-500:]}")


async def _wait_until_quiet(until: float) -> None:
    """Wait until other processes leave the cores alone, or until a time on `time.monotonic`'s clock."""
    others = 1.0
    while others > NOISE and time.monotonic() < until:
        before = busy_ns(MACHINE) - own_ns()
        await asyncio.sleep(QUIET_SECONDS)
        others = (busy_ns(MACHINE) - own_ns() - before) / 1e9 / QUIET_SECONDS


async def _measure_round(stage: Stage, origin: str | None, load: Workload, until: float) -> tuple[float, bool]:
    """Return the gateway's P95 in seconds, and whether other processes left the cores alone."""
    while True:
        await _wait_until_quiet(until)
        async with _readers(stage, origin) if origin else nullcontext():
            before, began = busy_ns(MACHINE) - own_ns(), time.monotonic()
            result = await stage.run(stage.ours, load)
            others = (busy_ns(MACHINE) - own_ns() - before) / 1e9 / (time.monotonic() - began)
        if result.latency is None:
            raise BenchmarkFailed("the load measured no latency")
        if others <= NOISE or time.monotonic() >= until:
            return result.latency.p95, others <= NOISE


async def measure_gateway(
    stage: Stage, origins: Mapping[str, str | None], *, rounds: int, seconds: float, patience: float
) -> tuple[dict[str, list[float]], int]:
    """Return the gateway's P95 in seconds of each round by what the readers read, and how many rounds were noisy."""
    load = Workload(kind="open", connections=50, seconds=seconds, rate=RATE)
    until = time.monotonic() + patience
    p95: dict[str, list[float]] = {name: [] for name in origins}
    noisy = 0
    names = list(origins)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            value, is_quiet = await _measure_round(stage, origins[name], load, until)
            p95[name].append(value)
            noisy += not is_quiet
    return p95, noisy


async def measure(folder: Path, *, rounds: int, seconds: float, patience: float) -> bool:
    """Measure, print, and return whether the goals are met."""
    place = folder / "site"
    place.mkdir()
    config = place / "spotinference.toml"
    async with open_stage(folder, peers=False) as stage, AsyncExitStack() as stack:
        config.write_text((folder / "spotinference.toml").read_text("utf-8") + "[site]\nport = 0\nmetrics_port = 0\n")
        with pinned(stage.cores.gateway):
            site = await stack.enter_async_context(running("site", config, place, forks=False))
            url, process = site.announced.url, ProcessTree(site.announced.pid)
            with pinned(stage.cores.others):
                before = process.cpu_ns()
                pages = await measure_pages(url)
                page_us = (process.cpu_ns() - before) / 1e3 / len(PAGES) / (GETS + 1)
            nginx = await stack.enter_async_context(static_files(place, await _compressed_pages(url)))
        origins = {NOBODY: None, NGINX: nginx, SITE: url}
        p95, noisy = await measure_gateway(stage, origins, rounds=rounds, seconds=seconds, patience=patience)
    return show(pages, page_us, p95, noisy)


def show(pages: Mapping[str, float], page_us: float, p95: Mapping[str, list[float]], noisy: int) -> bool:
    """Print the results, and return whether the goals are met."""
    table = Table("measured", "value", "goal", "met")
    worst = max(pages, key=lambda path: pages[path])
    is_page_fast = pages[worst] < PAGE_GOAL_SECONDS
    table.add_row(
        f"P95 of the slowest page, {worst}",
        f"{pages[worst] * 1e3:.2f} ms",
        f"{PAGE_GOAL_SECONDS * 1e3:g} ms",
        "yes" if is_page_fast else "no",
    )
    table.add_row("the site's CPU per page, from the cache", f"{page_us / 1e3:.2f} ms", "", "")
    for name, values in p95.items():
        each = ", ".join(f"{value * 1e3:.2f}" for value in values)
        table.add_row(f"the gateway's P95, {name}", f"{median(values) * 1e3:.2f} ms ({each})", "", "")
    ratios = {name: median(values) / median(p95[NOBODY]) for name, values in p95.items()}
    is_gateway_fast = ratios[SITE] <= SLOWER_GOAL
    table.add_row(f"{NGINX} ÷ {NOBODY}", f"{ratios[NGINX]:.2f}", "", "")
    met = "yes" if is_gateway_fast else "no"
    table.add_row(f"{SITE} ÷ {NOBODY}", f"{ratios[SITE]:.2f}", f"{SLOWER_GOAL:g}", met)
    Console().print(table)
    if noisy:
        print(
            f"{noisy} rounds count although other processes took more than {NOISE:g} cores: the machine was not quiet"
        )
    return is_page_fast and is_gateway_fast


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.site", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each kind (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one round (%(default)s)")
    help_text = "how many seconds it may wait for a quiet machine, in all (%(default)s)"
    parser.add_argument("--patience", type=float, default=300.0, help=help_text)
    options = parser.parse_args()
    if min(options.rounds, options.seconds) <= 0:
        parser.error("--rounds and --seconds are greater than 0")
    with tempfile.TemporaryDirectory(prefix="spotinference-bench-") as folder:
        measuring = measure(Path(folder), rounds=options.rounds, seconds=options.seconds, patience=options.patience)
        try:
            return 0 if asyncio.run(measuring) else 1
        except (BenchmarkFailed, NoCompiler) as error:
            print(error, file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
