"""Somebody else who asks while a gateway is attacked, and what the attack costs it."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from shared.tasks import cancel_and_wait
from tests.integration.gateway.conftest import Front
from tests.kit.raw_http import RawConnection, connected, head

PAUSE_SECONDS = 0.005
"""Between two questions: a probe is no load of its own."""
MOST_STALL_SECONDS = 5.0
"""The shortest of the default time limits: a longer stall would cost others theirs."""


@dataclass
class Probe:
    """A client that asks for nothing but `/health`, over one connection of its own."""

    waits: list[float] = field(default_factory=list)
    """Seconds, one for each answer."""

    @property
    def longest(self) -> float:
        return max(self.waits)


@asynccontextmanager
async def probing(front: Front) -> AsyncIterator[Probe]:
    """It asks on and on while the block runs, and once more after it."""
    probe, over = Probe(), asyncio.Event()

    async def ask(connection: RawConnection) -> None:
        began = time.monotonic()
        await connection.send(head("GET", "/health"))
        answer = await connection.answer()
        assert answer is not None
        assert answer.status == 200
        probe.waits.append(time.monotonic() - began)

    async def on_and_on(connection: RawConnection) -> None:
        while not over.is_set():
            await ask(connection)
            await asyncio.sleep(PAUSE_SECONDS)
        await ask(connection)

    async with connected(front.url) as connection:
        asking = asyncio.create_task(on_and_on(connection))
        try:
            yield probe
            over.set()
            await asking
        finally:
            await cancel_and_wait([asking])


def memory(front: Front) -> int:
    """What the gateway's process has in memory, in bytes."""
    status = Path(f"/proc/{front.service.announced.pid}/status").read_text("ascii")
    results = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert results is not None
    return int(results[1]) * 1024


async def flood(connection: RawConnection, sent: bytes, times: int) -> None:
    """As much of it as the other side takes."""
    with suppress(ConnectionError):
        for _ in range(times):
            await connection.send(sent)


async def drop_all(connection: RawConnection) -> None:
    """Read until the other side ends the connection, in whatever way."""
    with suppress(ConnectionError):
        while await connection.take():
            pass
