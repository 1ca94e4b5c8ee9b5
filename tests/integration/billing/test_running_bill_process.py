"""The real process on a real NATS server, killed between a reading of the running bill and its commit."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from shared.budget_gates import FLEET_SCOPE
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import BUDGET
from shared.messages.budget import BudgetGate
from shared.messages.codec import decode
from tests.kit.hyperstack_cloud import HyperstackCloud, hyperstack_cloud
from tests.kit.service import ServiceProcess, running
from tests.kit.waiting import PATIENCE_SECONDS, until

CONFIG = """
[bus]
url = "{bus}"
[billing]
daily_budget = "1000000"
bill_interval = "100ms"
observation_timeout = "{patience}"
[provider.hyperstack]
base_url = "{cloud}"
calls_per_minute = 10000
[[tier]]
name = "h"
provider = "hyperstack"
[[machine]]
id = "h-1"
tier = "h"
instance = "{instance}"
endpoint = "http://127.0.0.1:1"
"""
KILLS = 2


@asynccontextmanager
async def billing(
    folder: Path, nats_url: str, monkeypatch: pytest.MonkeyPatch, *, patience: str = "5m"
) -> AsyncIterator[tuple[ServiceProcess, HyperstackCloud]]:
    """Reads the bill of one machine that is awake."""
    async with hyperstack_cloud() as cloud:
        cloud.limit = 10**9
        vm = cloud.add("ACTIVE")
        monkeypatch.setenv("HYPERSTACK_API_KEY", cloud.key)
        config = folder / "spotinference.toml"
        config.write_text(CONFIG.format(bus=nats_url, cloud=cloud.base_url, instance=vm.id, patience=patience))
        async with running("billing", config, folder) as process:
            yield process, cloud


def totals(folder: Path) -> tuple[Decimal, Decimal] | None:
    """The last reading and the sum of what was accrued; None before there is any."""
    with closing(sqlite3.connect(folder / "books.sqlite", timeout=PATIENCE_SECONDS)) as books:
        meters = books.execute("SELECT cumulative FROM meters").fetchall()
        parts = books.execute("SELECT amount FROM accruals").fetchall()
    return (Decimal(meters[0][0]), sum((Decimal(part) for (part,) in parts), Decimal(0))) if meters else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else can write the books meanwhile."""
    with closing(sqlite3.connect(folder / "books.sqlite", timeout=30, isolation_level=None)) as books:
        books.execute("BEGIN IMMEDIATE")
        yield
        books.execute("ROLLBACK")


async def test_killed_between_reading_and_commit_it_counts_nothing_twice_and_loses_nothing(
    bus: JetStreamBus, tmp_path: Path, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del bus  # it has what the service needs
    async with billing(tmp_path, nats_url, monkeypatch) as (process, cloud):
        first = await until(lambda: asyncio.to_thread(totals, tmp_path), lambda seen: seen is not None)
        assert first is not None
        begun = first[0] - first[1]
        for _ in range(KILLS):
            with locked(tmp_path):
                calls = cloud.calls["billing"]
                await until(lambda: asyncio.sleep(0, cloud.calls["billing"]), lambda n, seen=calls: n > seen)  # type: ignore[misc]  # bound at once
                before = totals(tmp_path)
                await process.kill9()
            assert totals(tmp_path) == before, "what was read is not on record"
            await process.start()
            assert before is not None
            last = before[0]
            after = await until(lambda: asyncio.to_thread(totals, tmp_path), lambda seen, last=last: seen[0] > last)  # type: ignore[misc]  # bound at once
            assert after is not None
            cumulative, accrued = after
            assert accrued == cumulative - begun
        assert await process.stop() == 0


@pytest.mark.long
async def test_the_gate_closes_when_the_bill_goes_dark_and_opens_when_it_is_back(
    bus: JetStreamBus, tmp_path: Path, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gate() -> BudgetGate | None:
        entry = await bus.get(BUDGET, subjects.budget_key(FLEET_SCOPE))
        return None if entry is None else decode(entry.value, BudgetGate)

    async with billing(tmp_path, nats_url, monkeypatch, patience="3s") as (process, cloud):
        await until(gate, lambda seen: seen is not None and seen.open)
        cloud.outage = True
        dark = await until(gate, lambda seen: seen is not None and not seen.open)
        assert dark is not None
        assert (dark.reason, dark.observed) == ("billing_unobservable", False)
        cloud.recover()
        await until(gate, lambda seen: seen is not None and seen.open)
        assert await process.stop() == 0
