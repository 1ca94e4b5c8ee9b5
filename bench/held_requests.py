"""Many requests at once: memory under 1,000 streams and with 10,000 held requests, and how long a release takes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.cluster import KEY
from bench.figures import Figure, Spread
from bench.load import BenchmarkFailed, Series, Workload, read_result, running_load, wait_all_open
from bench.processes import ProcessTree, pinned
from bench.sampler import NOISE, Run
from bench.targets import Stage

HOLD_RATE = 4000.0
"""New held requests per second."""
HOLD_SECONDS = 120.0
MEMORY_GOAL = 300.0
"""MB with all requests held."""
RELEASE_GOAL = 100.0
"""ms from ready to the first response, and to the last if the engine takes all at once."""
POLL_SECONDS = 0.05
THOUSAND = Workload(kind="open", connections=1000, tokens=10, interval_ms=100, warm=1, seconds=0.5)
"""Streams, each of one second: 10,000 tokens a second in all."""


async def thousand_streams(stage: Stage, run: Run) -> Figure:
    """Return each target's peak memory under a thousand streams."""
    peaks: dict[str, Spread] = {}
    for target in stage.targets:
        if target.family is None:
            continue
        async with _peak(target.family) as seen:
            answered = await stage.run(target, THOUSAND)
        peaks[target.name] = Spread.of([max(seen)])
        if target is stage.ours:
            await run.count(answered)
    return Figure(name="memory under 1,000 streams", unit="MB", table="memory", by_target=peaks)


async def releases(stage: Stage, run: Run) -> list[Figure]:
    """Hold requests, then release them to a machine that takes few, one that takes all, and one that is just filled."""
    results: list[Figure] = []
    sizes = stage.sizes
    for name, concurrency in (("narrow", sizes.narrow), ("wide", sizes.wide)):
        seen = await _release(stage, run, name, sizes.held)
        how = f"{sizes.held:,} held"
        if not results:
            results.append(_ours(stage, f"memory, {how}", "MB", seen.rss_mb, MEMORY_GOAL))
        to = f"released to {concurrency:,} at once"
        results.append(_ours(stage, f"{how}, {to}: first answer", "ms", seen.first_ms, RELEASE_GOAL, quiet=seen.quiet))
        results.append(_ours(stage, f"{how}, {to}: all answered", "ms", seen.last_ms, quiet=seen.quiet))
    results.append(memory(stage, "memory after the releases"))
    seen = await _release(stage, run, "pair", sizes.pair)
    how = f"{sizes.pair:,} held, released to {sizes.pair:,} at once"
    return [*results, _ours(stage, f"{how}: all answered", "ms", seen.last_ms, RELEASE_GOAL, quiet=seen.quiet)]


def memory(stage: Stage, name: str, goal: float | None = None) -> Figure:
    """Return each target's memory now."""
    now = {t.name: Spread.of([t.family.rss_mb()]) for t in stage.targets if t.family}
    return Figure(name=name, unit="MB", table="memory", by_target=now, goal=goal)


@dataclass(frozen=True)
class _Release:
    rss_mb: float
    """Memory with all requests held."""
    first_ms: float
    """From ready to the first response."""
    last_ms: float
    quiet: bool
    """Whether other processes used little CPU meanwhile."""


async def _release(stage: Stage, run: Run, machine: str, requests: int) -> _Release:
    cluster, target, log = stage.cluster, stage.ours, stage.folder / "load.log"
    cell = Workload(kind="hold", connections=requests, rate=HOLD_RATE, seconds=HOLD_SECONDS, warm=0)
    model = f"bench/{machine}"
    with pinned(stage.cores.others):
        async with running_load(cell, port=target.port, key=KEY, model=model, log=log) as process:
            await wait_all_open(process, log)
            await cluster.wait_until_held(model, requests)
            assert target.family is not None
            rss = target.family.rss_mb()
            before = run.clocks(target)
            begun = await cluster.set_machine(machine, "ready")
            answered = await read_result(process, cell, log)
    used = run.clocks(target) - before
    await run.count(answered)
    if answered.answered is None or answered.requests != requests:
        raise BenchmarkFailed(f"{answered.requests} of {requests} held requests were answered")
    at: Series = answered.answered
    quiet = max(used.others, used.others_elsewhere) <= NOISE
    return _Release(rss, (at.least - begun) * 1e3, (at.most - begun) * 1e3, quiet)


def _ours(stage: Stage, name: str, unit: str, value: float, goal: float | None = None, *, quiet: bool = True) -> Figure:
    noisy = () if quiet else (stage.ours.name,)
    return Figure(
        name=name, unit=unit, table="held", by_target={stage.ours.name: Spread.of([value])}, goal=goal, noisy=noisy
    )


@asynccontextmanager
async def _peak(family: ProcessTree) -> AsyncIterator[list[float]]:
    """Sample the memory while the block runs."""
    seen = [family.rss_mb()]

    async def poll() -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            seen.append(family.rss_mb())

    polling = asyncio.create_task(poll())
    try:
        yield seen
    finally:
        polling.cancel()
