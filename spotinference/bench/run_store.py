"""The stored runs, in bucket `reports`, one key each."""

from shared.bus.ports import Bus
from shared.bus.subjects import bench_key
from shared.bus.topology import REPORTS
from shared.messages.bench import BenchRun
from shared.messages.codec import encode
from spotinference.bucket_reader import read_bucket

MAX_UNPUBLISHED = 100
"""Stored runs that are not published; older ones are deleted."""


async def store_run(bus: Bus, run: BenchRun) -> None:
    """Store a run, and delete the oldest unpublished ones beyond `MAX_UNPUBLISHED`."""
    await bus.put(REPORTS, bench_key(run.id), encode(run))
    unpublished = [known for known in await list_runs(bus) if known.published_at is None]
    for known in unpublished[MAX_UNPUBLISHED:]:
        await bus.delete(REPORTS, bench_key(known.id))


async def list_runs(bus: Bus) -> list[BenchRun]:
    """Return the runs, newest first. Those of another version that cannot be decoded are skipped."""
    entries = await read_bucket(bus, REPORTS, BenchRun, prefix=bench_key(""))
    return sorted((run for run, _ in entries.values()), key=lambda run: (run.at, run.id), reverse=True)
