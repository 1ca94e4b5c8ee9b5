"""Clients under load, and the sums that have to agree afterwards: the engine's, the probes', the ledger's."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import aiohttp
import msgspec

from services.meter.core.engine_counters import EngineCounters, parse
from shared.bus.jetstream import connect
from shared.bus.topology import FLEET_JOURNAL
from shared.messages.waker import JournalEntry, ProviderCall
from tests.kit.up import UpProcess
from tests.kit.waiting import PATIENCE_SECONDS, until

CLIENTS = 4
MAX_TOKENS = 24
MACHINE = "local-1"
"""Of `config`; what others wrote into the bucket of machines may stand beside it."""
ENTRIES = msgspec.json.Decoder(JournalEntry)


@dataclass
class Traffic:
    """Clients that ask one request after another and try again when they are cut off. `pause` lets each finish."""

    suite: UpProcess
    key: str
    answered: int = 0
    cut: int = 0
    """Requests that ended without an answer."""
    _going: asyncio.Event = field(default_factory=asyncio.Event)
    _in_flight: int = 0
    _tasks: "list[asyncio.Task[None]]" = field(default_factory=list)

    def start(self) -> None:
        self._going.set()
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]

    async def pause(self) -> None:
        self._going.clear()
        await until(self._count, lambda count: count == 0)

    def resume(self) -> None:
        self._going.set()

    async def use(self, key: str) -> None:
        """Ask with another key from now on."""
        await self.pause()
        self.key = key
        self.resume()

    async def more(self, count: int) -> None:
        """So many more are answered."""
        expected = self.answered + count
        await until(self._answers, lambda answered: answered >= expected)

    async def stop(self) -> None:
        await self.pause()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _count(self) -> int:
        return self._in_flight

    async def _answers(self) -> int:
        return self.answered

    async def _client(self, number: int) -> None:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                while not self._going.is_set():  # it may be paused again before this task runs
                    await self._going.wait()
                self._in_flight += 1
                try:
                    await self._ask(session, streamed=number % 2 == 0)
                finally:
                    self._in_flight -= 1

    async def _ask(self, session: aiohttp.ClientSession, *, streamed: bool) -> None:
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "one two three"}],
            "max_tokens": MAX_TOKENS,
            "stream": streamed,
        }
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            async with session.post(f"{self.suite.base_url}/chat/completions", json=body, headers=headers) as answer:
                whole = await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            whole = b""
        if (b"data: [DONE]" if streamed else b'"usage"') in whole:
            self.answered += 1
        else:
            self.cut += 1
            await asyncio.sleep(0.05)  # whoever is down is not asked a thousand times a second


async def engine_count(suite: UpProcess) -> EngineCounters:
    """The engine's sums at rest, without what the waker's probes made it work."""
    machine = (await suite.machines())[MACHINE]

    async def counters() -> EngineCounters:
        async with aiohttp.ClientSession() as session, session.get(f"{machine.endpoint}/metrics") as answer:
            return parse(await answer.text())

    return await until(counters, lambda seen: seen.running == 0)


async def probe_tokens(suite: UpProcess, since: float = 0.0) -> int:
    """What the journal has of them; entries of before `since` and those that nobody can read are not the waker's."""
    tokens = 0
    async with connect(suite.bus_access(), name="test", wait=PATIENCE_SECONDS) as bus:
        for received in await bus.read(FLEET_JOURNAL):
            with contextlib.suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                entry = ENTRIES.decode(received.data)
                tokens += entry.tokens if isinstance(entry, ProviderCall) and entry.at >= since else 0
    return tokens


async def ledger_tokens(suite: UpProcess) -> tuple[int, int]:
    """Requests and tokens of today and of yesterday: the test may run over midnight."""
    totals = [(await suite.json("usage", "--day", day))["totals"] for day in days()]
    tokens = sum(t["prompt_tokens"] + t["completion_tokens"] for t in totals)
    return sum(t["requests"] for t in totals), tokens


def days() -> list[str]:
    now = datetime.now(UTC)
    return [(now - timedelta(days=1)).date().isoformat(), now.date().isoformat()]
