"""The ledger's file restored alone from the backup that the documentation describes, taken while usage came in."""

import asyncio
import signal
import sqlite3
import time
from pathlib import Path

from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus
from shared.messages.codec import encode
from shared.messages.meter import TokensQuery
from shared.messages.waker import ProviderCall
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


async def probed(bus: JetStreamBus, tokens: int) -> None:
    """Tell the journal of a probe."""
    entry = ProviderCall(
        at=time.time(), machine="m", call="probe", outcome="accepted", code="", seconds=0.1, tokens=tokens
    )
    await bus.publish(subjects.journal("m"), encode(entry))


async def probes_in(ledger: Path) -> list[int]:
    """Tokens of the probes that explain what engines counted."""
    with sqlite3.connect(ledger) as connection:
        return [row[0] for row in connection.execute("SELECT amount FROM engine_notes ORDER BY amount")]


async def test_a_ledger_restored_alone_from_its_backup_gets_everything_back(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    ledger, copy = tmp_path / "ledger.sqlite", tmp_path / "copy.sqlite"
    told = Told()
    watch = await bus.watch(topology.METER, told.on_event)
    async with meter_on(tmp_path / "meter", nats_url, f"sqlite:///{ledger}") as meter:
        await send(bus, *FOUND[:200])
        await told.reach("gw-1", 50)
        await probed(bus, 3)
        await until(lambda: probes_in(ledger), lambda seen: seen == [3])
        sending = asyncio.create_task(send(bus, *FOUND[200:]))
        await asyncio.to_thread(backup, ledger, copy)
        await sending
        await probed(bus, 4)
        await until(lambda: probes_in(ledger), lambda seen: seen == [3, 4])
        for source in ("gw-1", "gw-2"):
            await told.reach(source, 200)
        assert await meter.end(signal.SIGTERM) == 0
        await asyncio.to_thread(restore, copy, ledger)
        await meter.start()
        query = TokensQuery(day=DAY)
        again = await until(lambda: ask(bus, query), lambda tokens: tokens.totals == sums_of(FOUND))
        await until(lambda: probes_in(ledger), lambda seen: seen == [3, 4])
        assert not any("missing" in reason or "lacks" in reason for reason in again.reasons)
    await watch.stop()
