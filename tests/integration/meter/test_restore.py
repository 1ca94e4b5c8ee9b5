"""The ledger's file restored alone from the backup that the documentation describes, taken while usage came in."""

import asyncio
import signal
import sqlite3
from pathlib import Path

from shared.bus import topology
from shared.bus.jetstream import JetStreamBus
from shared.messages.meter import TokensQuery
from tests.integration.meter.test_process import Told, ask, meter_on
from tests.kit.usage import send
from tests.kit.waiting import until
from tests.unit.meter.events import MIDNIGHT, event, sums_of

DAY = "2026-11-23"
FOUND = [event(f"gw-{1 + n % 2}", 1 + n // 2, completed_at=MIDNIGHT + n) for n in range(400)]


def backup(ledger: Path, copy: Path) -> None:
    """As `sqlite3 ledger.sqlite ".backup copy.sqlite"` does."""
    with sqlite3.connect(ledger) as source, sqlite3.connect(copy) as target:
        source.backup(target)


def restore(copy: Path, ledger: Path) -> None:
    for leftover in ledger.parent.glob(f"{ledger.name}*"):
        leftover.unlink()
    copy.rename(ledger)


async def test_a_ledger_restored_alone_from_its_backup_gets_everything_back(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    ledger, copy = tmp_path / "ledger.sqlite", tmp_path / "copy.sqlite"
    told = Told()
    watch = await bus.watch(topology.METER, told.on_event)
    async with meter_on(tmp_path / "meter", nats_url, f"sqlite:///{ledger}") as meter:
        await send(bus, *FOUND[:200])
        await told.reach("gw-1", 50)
        sending = asyncio.create_task(send(bus, *FOUND[200:]))
        await asyncio.to_thread(backup, ledger, copy)
        await sending
        for source in ("gw-1", "gw-2"):
            await told.reach(source, 200)
        assert await meter.end(signal.SIGTERM) == 0
        await asyncio.to_thread(restore, copy, ledger)
        await meter.start()
        query = TokensQuery(day=DAY)
        again = await until(lambda: ask(bus, query), lambda tokens: tokens.totals == sums_of(FOUND))
        assert not any("missing" in reason or "lacks" in reason for reason in again.reasons)
    await watch.stop()
