"""A whole cluster for tests: a real bus, real gateways, real wakers, and machines whose engines log their own lives."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from services.waker.adapters import keeper_files
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Changed, WatchEvent
from shared.bus.topology import FLEET, FLEET_JOURNAL, LEASES
from shared.key_store import create_key
from shared.messages.codec import decode
from shared.messages.waker import JournalEntry, MachineRecord, MachineState, ProviderCall, Transition
from tests.integration.waker.tiny_engine import PIECES
from tests.kit.raw_http import connected, head
from tests.kit.service import ServiceProcess, running
from tests.kit.waiting import PATIENCE_SECONDS, until

ENGINE = Path(__file__).parent / "tiny_engine.py"
CONFIG = """
[bus]
url = "{bus}"
[gateway]
port = 0
drain_grace = "5s"
access_log = false
{gateway}
[waker]
{waker}
"""
PART = """
[[tier]]
name = "t-{name}"
provider = "process"
max_concurrency = 400
idle_timeout = "{idle}"
[[machine]]
id = "{name}"
tier = "t-{name}"
command = {command}
[[model]]
name = "{name}"
lineup = ["t-{name}"]
"""


@dataclass(frozen=True)
class Line:
    """Of an engine's log."""

    word: str
    pid: int
    at: float
    under_way: int


@dataclass
class Cluster:
    """Machine `m1` serves model `m1`, and so on."""

    bus: JetStreamBus
    bus_url: str
    folder: Path
    machines: list[str]
    text: str
    key: str
    stack: AsyncExitStack
    gateways: list[ServiceProcess] = field(default_factory=list)
    wakers: list[ServiceProcess] = field(default_factory=list)

    async def gateway(self, bus_url: str | None = None, *, ahead: float = 0.0) -> ServiceProcess:
        """Each with its own outbox, as on a host of its own. `ahead`: how many seconds its clock is."""
        folder = self.folder / f"gateway-{len(self.gateways)}"
        service = await self._service("gateway", folder, bus_url or self.bus_url, ahead=ahead)
        self.gateways.append(service)
        return service

    async def waker(self, bus_url: str | None = None, *, ahead: float = 0.0) -> ServiceProcess:
        """The first leads; all see the same machines, whatever way they have to the bus."""
        service = await self._service("waker", self.folder, bus_url or self.bus_url, ahead=ahead)
        self.wakers.append(service)
        if len(self.wakers) == 1:
            for machine in self.machines:
                await self.reaches(machine, "asleep")
        return service

    async def _service(self, name: str, folder: Path, bus_url: str, *, ahead: float) -> ServiceProcess:
        config = written(folder, f"{name}-{len(self.wakers)}.toml", self.text.replace(self.bus_url, bus_url))
        return await self.stack.enter_async_context(running(name, config, folder, ahead=ahead))

    async def ask(
        self, model: str = "m1", *, gateway: int = 0, streamed: bool = False, seconds: float = PATIENCE_SECONDS
    ) -> bytes:
        """One request over a connection of its own. `AssertionError` where the answer is not whole; the body."""
        url = self.gateways[gateway].announced.url
        async with connected(url) as connection:
            await connection.send(self.request(model, streamed=streamed))
            answer = await connection.answer(seconds=seconds)
        assert answer is not None, "the connection was closed without an answer"
        assert answer.status == 200, answer
        if streamed:
            assert answer.body.count(b'"content"') == PIECES, answer.body
            assert answer.body.endswith(b"data: [DONE]\n\n"), answer.body
        else:
            assert json.loads(answer.body)["choices"], answer.body
        return answer.body

    def request(self, model: str, *, streamed: bool = False) -> bytes:
        body = json.dumps({"model": model, "messages": [], "stream": streamed}).encode()
        return (
            head("POST", "/v1/chat/completions", f"Authorization: Bearer {self.key}", f"Content-Length: {len(body)}")
            + body
        )

    async def record(self, machine: str = "m1") -> MachineRecord | None:
        entry = await self.bus.get(FLEET, subjects.machine_key(machine))
        return decode(entry.value, MachineRecord) if entry else None

    async def reaches(self, machine: str, state: MachineState) -> MachineRecord:
        """Once the bucket says so: a state that lasts."""
        latest = await until(lambda: self.record(machine), lambda seen: seen is not None and seen.state == state)
        assert latest is not None
        return latest

    @asynccontextmanager
    async def at(
        self, condition: Callable[[MachineRecord], bool], do: Callable[[], None]
    ) -> AsyncIterator[asyncio.Event]:
        """`do` this within a moment of the first record that is wanted; the event is set then."""
        done = asyncio.Event()

        def on_event(event: WatchEvent) -> None:
            if (
                isinstance(event, Changed)
                and event.value
                and not done.is_set()
                and condition(decode(event.value, MachineRecord))
            ):
                do()
                done.set()

        watch = await self.bus.watch(FLEET, on_event)
        try:
            yield done
        finally:
            await watch.stop()

    async def journal(self) -> list[JournalEntry]:
        return [decode(m.data, JournalEntry) for m in await self.bus.read(FLEET_JOURNAL)]  # type: ignore[arg-type]  # a union of messages is one

    async def path(self, machine: str = "m1") -> list[MachineState]:
        """The states that it went through, once the journal, which follows the record, tells of the last."""

        async def current() -> tuple[MachineState | None, list[MachineState]]:
            record = await self.record(machine)
            entries = [e for e in await self.journal() if isinstance(e, Transition) and e.machine == machine]
            return None if record is None else record.state, [entry.to_state for entry in entries]

        return (await until(current, lambda seen: seen[0] in (None, *seen[1][-1:])))[1]

    async def calls(self, call: str) -> list[str]:
        """The outcomes of these provider calls."""
        return [e.outcome for e in await self.journal() if isinstance(e, ProviderCall) and e.call == call]

    def lives(self, machine: str = "m1", word: str | None = None) -> list[Line]:
        """What its engines logged."""
        log = self.folder / f"{machine}.log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        latest = [Line(w, int(pid), float(at), int(under_way)) for w, pid, at, under_way in lines]
        return [line for line in latest if word in (None, line.word)]

    async def led_by(self, service: ServiceProcess) -> None:
        """Once this waker says that it leads."""

        async def leads() -> bool:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{service.announced.metrics_url}/metrics") as got,
            ):
                return "spot_waker_leading 1.0" in await got.text()

        await until(leads, bool)

    async def leader(self) -> bytes | None:
        entry = await self.bus.get(LEASES, subjects.WAKER_LEASE)
        return entry.value if entry else None


def written(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def one_engine_at_a_time(lines: list[Line]) -> None:
    """No engine started before the one before it had ended, and none was told to end with a request under way."""
    running_now: set[int] = set()
    for line in lines:
        if line.word == "start":
            assert not running_now, f"{line} beside {running_now}"
            running_now.add(line.pid)
        elif line.word == "end":
            running_now.discard(line.pid)
        elif line.word == "term":
            assert line.under_way == 0, f"a stop met {line.under_way} requests"


@asynccontextmanager
async def built(
    bus: JetStreamBus,
    bus_url: str,
    folder: Path,
    *engine: str,
    machines: int = 1,
    idle: str = "1h",
    gateway: str = "",
    waker: str = "",
) -> AsyncIterator[Cluster]:
    """`engine`: more arguments for its engines. Nothing of it is left running afterwards."""
    names = [f"m{number + 1}" for number in range(machines)]
    parts = []
    for name in names:
        command = [
            sys.executable,
            "-S",
            "-E",
            str(ENGINE),
            "--port",
            "{port}",
            "--log",
            str(folder / f"{name}.log"),
            *engine,
        ]
        parts.append(PART.format(name=name, idle=idle, command=json.dumps(command)))
    text = CONFIG.format(bus=bus_url, gateway=gateway, waker=waker) + "".join(parts)
    _, key = await create_key(bus, name="test")
    try:
        async with AsyncExitStack() as stack:
            yield Cluster(bus, bus_url, folder, names, text, key, stack)
    finally:
        for name in names:
            _end(keeper_files.machine_folder(folder, name))


def _end(folder: Path) -> None:
    state = keeper_files.read_state(folder)
    if state is not None and keeper_files.process_start(state.keeper) == state.keeper_started:
        with suppress(ProcessLookupError):
            os.kill(state.keeper, signal.SIGKILL)  # its engine goes with it
