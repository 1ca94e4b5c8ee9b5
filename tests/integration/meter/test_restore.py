"""The ledger's file is restored alone from the documented backup, taken while usage arrived."""

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
from tests.integration.meter.test_process import MarkWatcher, ask, meter_on
from tests.kit.usage import send
from tests.kit.waiting import until
from tests.unit.meter.events import MIDNIGHT, event, sums_of

DAY = "2026-11-23"
EVENTS = [event(f"gw-{1 + n % 2}", 1 + n // 2, completed_at=MIDNIGHT + n) for n in range(400)]


def backup(ledger: Path, copy: Path) -> None:
    """Back up as `sqlite3 ledger.sqlite ".backup copy.sqlite"` does."""
    with sqlite3.connect(ledger) as source, sqlite3.connect(copy) as target:
        source.backup(target)


def restore(copy: Path, ledger: Path) -> None:
    for leftover in ledger.parent.glob(f"{ledger.name}*"):
        leftover.unlink()
    copy.rename(ledger)


async def probed(bus: JetStreamBus, tokens: int) -> None:
    """Publish a probe to the journal."""
    entry = ProviderCall(
        at=time.time(), machine="m", call="probe", outcome="accepted", code="", seconds=0.1, tokens=tokens
    )
    await bus.publish(subjects.journal("m"), encode(entry))


async def probes_in(ledger: Path) -> list[int]:
    """Return the tokens of the stored probes."""
    with sqlite3.connect(ledger) as connection:
        return [row[0] for row in connection.execute("SELECT amount FROM engine_notes ORDER BY amount")]


async def test_ledger_restored_from_its_backup_recovers_everything(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    ledger, copy = tmp_path / "ledger.sqlite", tmp_path / "copy.sqlite"
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    async with meter_on(tmp_path / "meter", nats_url, f"sqlite:///{ledger}") as meter:
        await send(bus, *EVENTS[:200])
        await watcher.reach("gw-1", 50)
        await probed(bus, 3)
        await until(lambda: probes_in(ledger), lambda seen: seen == [3])
        sending = asyncio.create_task(send(bus, *EVENTS[200:]))
        await asyncio.to_thread(backup, ledger, copy)
        await sending
        await probed(bus, 4)
        await until(lambda: probes_in(ledger), lambda seen: seen == [3, 4])
        for source in ("gw-1", "gw-2"):
            await watcher.reach(source, 200)
        assert await meter.end(signal.SIGTERM) == 0
        await asyncio.to_thread(restore, copy, ledger)
        await meter.start()
        query = TokensQuery(day=DAY)
        again = await until(lambda: ask(bus, query), lambda tokens: tokens.totals == sums_of(EVENTS))
        await until(lambda: probes_in(ledger), lambda seen: seen == [3, 4])
        assert not any("missing" in reason or "lacks" in reason for reason in again.reasons)
    await watch.stop()
