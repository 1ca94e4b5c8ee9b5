"""The runs that are kept: bucket `reports`, one key for each."""

from shared.bus.ports import Bus
from shared.bus.subjects import bench_key
from shared.bus.topology import REPORTS
from shared.messages.bench import BenchRun
from shared.messages.codec import encode
from spotinference.bucket_reader import read_bucket

KEPT = 100
"""Runs that are not published: the oldest ones beyond go."""


async def keep(bus: Bus, run: BenchRun) -> None:
    await bus.put(REPORTS, bench_key(run.id), encode(run))
    unpublished = [known for known in await runs(bus) if known.published_at is None]
    for known in unpublished[KEPT:]:
        await bus.delete(REPORTS, bench_key(known.id))


async def runs(bus: Bus) -> list[BenchRun]:
    """All of them, the newest first; what another version wrote and this one cannot read is left out."""
    found = await read_bucket(bus, REPORTS, BenchRun, prefix=bench_key(""))
    return sorted((run for run, _ in found.values()), key=lambda run: (run.at, run.id), reverse=True)
