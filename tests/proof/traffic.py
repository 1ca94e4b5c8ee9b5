"""Clients that send one request after another, and record which answers were complete."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import aiohttp

from tests.kit.scripted_engine import Script, ScriptedEngine
from tests.kit.waiting import until

CLIENTS_PER_GATEWAY = 3
ANSWER_SECONDS = 20.0
AGAIN_SECONDS = 0.05
"""Pause after a failed request, so that a gateway that is down is not asked a thousand times a second."""


@dataclass
class Traffic:
    """`urls`: of the gateways, evaluated for each request, since a restarted gateway has another port."""

    engine: ScriptedEngine
    key: str
    model: str
    urls: list[Callable[[], str]]
    random: Random
    received: set[str] = field(default_factory=set)
    """Request ids of the complete answers."""
    cut: int = 0
    """Requests that ended without a complete answer."""
    refused: Counter[int] = field(default_factory=Counter)
    """By status."""
    in_flight: Counter[int] = field(default_factory=Counter)
    """By gateway."""
    _ending: bool = False

    async def client(self, gateway: int, *, streamed: bool) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        headers = {"Authorization": f"Bearer {self.key}"}
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            while not self._ending:
                self.engine.default = Script(
                    tokens=self.random.randint(1, 40), prompt_tokens=self.random.randint(1, 2000), interval=0.002
                )
                self.in_flight[gateway] += 1
                try:
                    whole = await self._ask(session, self.urls[gateway](), streamed=streamed)
                except (aiohttp.ClientError, TimeoutError):
                    self.cut += 1
                    whole = False
                finally:
                    self.in_flight[gateway] -= 1
                if not whole:
                    await asyncio.sleep(AGAIN_SECONDS)

    async def _ask(self, session: aiohttp.ClientSession, url: str, *, streamed: bool) -> bool:
        body = {"model": self.model, "messages": [{"role": "user", "content": "hi"}], "stream": streamed}
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            text = await answer.read()
            if answer.status != 200:
                self.refused[answer.status] += 1
                return False
            assert (b"data: [DONE]" if streamed else b'"usage"') in text, text
            self.received.add(answer.headers["x-request-id"])
            return True

    async def more(self, count: int = 1) -> None:
        """Wait until so many more requests are answered."""
        expected = len(self.received) + count
        await until(lambda: asyncio.sleep(0, len(self.received)), lambda seen: seen >= expected, seconds=30.0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the clients. At the end each finishes its current request."""
        async with asyncio.TaskGroup() as clients:
            for gateway in range(len(self.urls)):
                for number in range(CLIENTS_PER_GATEWAY):
                    clients.create_task(self.client(gateway, streamed=number % 2 == 0))
            try:
                yield
            finally:
                self._ending = True
