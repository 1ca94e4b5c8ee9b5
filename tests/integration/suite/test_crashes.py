"""kill -9 of each process in turn while requests run: the ledger ends up with the engine's own count."""

import asyncio
import json
import os
import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import msgspec

from services.meter.core.engine_counters import EngineCounters, parse
from shared.bus.jetstream import connect
from shared.bus.topology import FLEET_JOURNAL
from shared.messages.waker import JournalEntry, ProviderCall
from tests.integration.suite.config import config
from tests.kit.engine import engine_command
from tests.kit.up import UpProcess, up
from tests.kit.waiting import PATIENCE_SECONDS, until

CLIENTS = 4
MAX_TOKENS = 24
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

    async def more(self, count: int) -> None:
        """So many more are answered."""
        wanted = self.answered + count
        await until(self._answers, lambda answered: answered >= wanted)

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
        async with aiohttp.ClientSession(timeout=timeout, headers={"Authorization": f"Bearer {self.key}"}) as session:
            while True:
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
        try:
            async with session.post(f"{self.suite.base_url}/chat/completions", json=body) as answer:
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
    (machine,) = (await suite.json("fleet"))["machines"]

    async def counters() -> EngineCounters:
        async with aiohttp.ClientSession() as session, session.get(f"{machine['endpoint']}/metrics") as answer:
            return parse(await answer.text())

    return await until(counters, lambda seen: seen.running == 0)


async def probe_tokens(suite: UpProcess) -> int:
    async with connect(suite.services["bus"]["url"], name="test", wait=PATIENCE_SECONDS) as bus:
        entries = [ENTRIES.decode(received.data) for received in await bus.read(FLEET_JOURNAL)]
    return sum(entry.tokens for entry in entries if isinstance(entry, ProviderCall))


async def ledger_tokens(suite: UpProcess) -> tuple[int, int]:
    """Requests and tokens of today and of yesterday: the test may run over midnight."""
    totals = [(await suite.json("usage", "--day", day))["totals"] for day in days()]
    tokens = sum(t["prompt_tokens"] + t["completion_tokens"] for t in totals)
    return sum(t["requests"] for t in totals), tokens


def days() -> list[str]:
    now = datetime.now(UTC)
    return [(now - timedelta(days=1)).date().isoformat(), now.date().isoformat()]


async def test_the_ledger_equals_the_engine_after_every_service_was_killed(tmp_path: Path, slow_model: Path) -> None:
    async with up(tmp_path, config(engine_command(slow_model), tier='idle_timeout = "10m"')) as suite:
        key = (await suite.json("keys", "create", "--name", "test"))["key"]
        traffic = Traffic(suite, key)
        traffic.start()
        await traffic.more(5)
        for service in ("meter", "waker", "billing", "bus"):
            await suite.kill9(service)
            await traffic.more(10)
        assert traffic.cut == 0, "none of these is on a request's way"
        await traffic.pause()
        await suite.kill9("gateway")
        traffic.resume()
        await traffic.more(10)
        await traffic.stop()
        assert traffic.answered >= 55

        engine = await engine_count(suite)
        assert engine.rounding == 0
        expected = engine.prompt_tokens + engine.completion_tokens - await probe_tokens(suite)
        await until(lambda: ledger_tokens(suite), lambda seen: seen == (traffic.answered, expected))


async def test_a_gateway_killed_in_flight_loses_at_most_what_was_in_flight(tmp_path: Path, slow_model: Path) -> None:
    async with up(tmp_path, config(engine_command(slow_model), tier='idle_timeout = "10m"')) as suite:
        key = (await suite.json("keys", "create", "--name", "test"))["key"]
        traffic = Traffic(suite, key)
        traffic.start()
        await traffic.more(5)
        await suite.kill9("gateway")
        await traffic.more(5)
        await traffic.stop()
        engine = await engine_count(suite)
        expected = engine.prompt_tokens + engine.completion_tokens - await probe_tokens(suite)
        requests, tokens = await until(lambda: ledger_tokens(suite), lambda seen: seen[0] >= traffic.answered)
        # What was in flight at the kill was worked for and is not counted, or was counted and not answered.
        assert traffic.answered <= requests <= traffic.answered + CLIENTS
        prompt = engine.prompt_tokens // max(1, requests) + 1
        assert 0 <= expected - tokens <= CLIENTS * (prompt + MAX_TOKENS)


async def test_an_engine_killed_in_flight_is_replaced_by_the_next_request(tmp_path: Path, slow_model: Path) -> None:
    async with up(tmp_path, config(engine_command(slow_model), tier='idle_timeout = "10m"')) as suite:
        key = (await suite.json("keys", "create", "--name", "test"))["key"]
        traffic = Traffic(suite, key)
        traffic.start()
        await traffic.more(3)
        os.kill(engine_pid(tmp_path), signal.SIGKILL)
        await traffic.more(5)
        await traffic.stop()
        moves = [(e["from"], e["to"]) for e in await suite.journal() if e["kind"] == "transition"]
        assert moves.count(("asleep", "waking")) == 2
        assert ("ready", "asleep") in moves


def engine_pid(folder: Path) -> int:
    """As its keeper wrote it down."""
    return int(json.loads((folder / "data/machines/local-1/state.json").read_text("utf-8"))["engine"])
