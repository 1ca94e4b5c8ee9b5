"""The real process on a real NATS server: killed in the middle of an import, taken over, drained."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest

from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.errors import BusUnavailable
from tests.integration.billing.billing_service import CONFIG, Billing, FakeMeter, publish_transition
from tests.kit.service import running
from tests.kit.waiting import until
from tests.unit.billing.cost_row_builders import focus_csv

T = TypeVar("T")

ROWS = 20_000
MOMENTS = (0.3, 0.7)
"""Seconds into an import at which the process dies: while reading, while writing, around the commit."""


@pytest.mark.long
async def test_a_process_killed_at_any_moment_of_an_import_leaves_the_old_figure_or_the_new_one(
    tmp_path: Path, bus: JetStreamBus, nats_url: str
) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text(f'[bus]\nurl = "{nats_url}"\n{CONFIG}')
    books = Billing(bus, FakeMeter(bus))
    await bus.respond("meter", subjects.METER_TOKENS, books.meter.answer)
    async with running("billing", config, tmp_path) as process:
        async with aiohttp.ClientSession() as client, client.get(f"{process.announced.metrics_url}/readyz") as ready:
            assert ready.status == 200
        await answered(lambda: books.deliver(focus_csv({"BilledCost": "100.00"})))
        before = await books.report()
        for number, moment in enumerate(MOMENTS, 1):
            large = focus_csv(*[{"BilledCost": f"0.0{number}"}] * ROWS)
            importing = asyncio.create_task(books.deliver(large))
            await asyncio.wait([importing], timeout=moment)
            await process.kill9()
            importing.cancel()
            await asyncio.wait([importing])
            await process.start()
            after = await answered(books.report)
            new = Decimal(ROWS * number) / 100
            assert after == before or (after.spend, after.revision) == (new, before.revision + 1)
            assert (await books.deliver(large)).snapshots[0].rows == ROWS
            before = await books.report()
            assert before.spend == new
        assert await process.stop() == 0


async def test_a_journal_published_without_a_leader_is_read_by_the_standby(
    tmp_path: Path, bus: JetStreamBus, nats_url: str
) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text(f'[bus]\nurl = "{nats_url}"\n{CONFIG}')
    books = Billing(bus, FakeMeter(bus))
    await bus.respond("meter", subjects.METER_TOKENS, books.meter.answer)
    async with running("billing", config, tmp_path) as leader, running("billing", config, tmp_path) as standby:
        await answered(books.report)
        await leader.kill9()
        await publish_transition(bus, "a-1", -1, "ready")
        report = await until(lambda: answered(books.report), lambda r: r.spend == Decimal("57.6"))
        assert report.state == "estimated"
        assert await standby.stop() == 0


async def answered(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer of whoever leads, as soon as somebody does."""

    async def tried() -> T | None:
        try:
            return await ask()
        except BusUnavailable:
            return None

    answer = await until(tried, lambda reply: reply is not None)
    assert answer is not None
    return answer
