"""Bus, ledger and books, each restored alone from its documented backup: the suite ends up with every count."""

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psycopg
import pytest

from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus, connect
from shared.messages.billing import Published
from shared.messages.budget import Journalled
from shared.messages.codec import Decoder, decode, encode
from shared.messages.gateway import UsageSource
from shared.messages.waker import ProviderCall
from tests.integration.suite.traffic import Traffic
from tests.kit.engine import Engine
from tests.kit.postgres import postgres_binaries
from tests.kit.up import UpProcess, up
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import focus_csv
from tests.unit.meter.events import event

FAULTY_ENGINE = Path(__file__).parents[1] / "waker" / "faulty_engine.py"
ENTRIES: Decoder[Journalled] = Decoder(Journalled)
CONFIG = """
[gateway]
port = 0
drain_grace = "5s"
{more}
[[tier]]
name = "always"
provider = "static"
price_per_hour = "1.00"
[[machine]]
id = "always-1"
tier = "always"
endpoint = "{endpoint}"
[[model]]
name = "tiny"
lineup = ["always"]
[[tier]]
name = "local"
provider = "process"
[[machine]]
id = "local-1"
tier = "local"
command = ["{python}", "{faulty_engine}", "--port", "{{port}}"]
[[model]]
name = "slept"
lineup = ["local"]
"""


class Trial:
    """A suite under traffic whose engine outlives it, and what has to hold after each of its starts."""

    def __init__(self, suite: UpProcess, engine: Engine, traffic: Traffic) -> None:
        self.suite = suite
        self.traffic = traffic
        self._engine = engine
        self._journal: set[bytes] = set()
        """Its entries, some of which the bus may lose."""

    async def restart(self, change: Callable[[], object]) -> None:
        """Stop the suite at rest, change something in its files, start it again under traffic."""
        await self.traffic.pause()
        await self.expect_counts()
        assert await self.suite.stop() == 0
        await asyncio.to_thread(change)
        await self.suite.start()
        self.traffic.resume()
        await self.traffic.more(5)

    async def expect_counts(self, more: int = 0) -> None:
        """The ledger has the tokens that the engine counted without the waker's probes, and `more`."""
        engine = await asyncio.to_thread(self._engine.counters)
        tokens = engine.prompt_tokens + engine.completion_tokens - await self._probe_tokens() + more
        await until(self.usage, lambda reply: reply["prompt_tokens"] + reply["completion_tokens"] == tokens)

    async def expect_recovered(self) -> None:
        """Every count is there, every link of it holds, everybody leads, and nothing was started twice."""
        await self.traffic.pause()
        await self.wake()
        await self.expect_counts()
        checked = json.loads((await self.suite.command("doctor", "--json")).out)
        assert [link for link in checked["links"] if link["level"] == "wrong"] == []
        starts = Counter(line["service"] for line in self.suite.lines if "service" in line)
        assert set(starts.values()) == {1}, starts

    async def usage(self) -> dict[str, int]:
        """The ledger's sums of today and yesterday: the test may run over midnight."""
        return dict((await self.suite.json("usage", "--days", "2"))["totals"])

    async def wake(self) -> None:
        output = await self.suite.command("wake", "slept", "--wait")
        assert output.status == 0, output

    async def make_key(self, name: str) -> dict[str, str]:
        return dict(await self.suite.json("keys", "create", "--name", name))

    async def revoke(self, key: dict[str, str]) -> None:
        assert (await self.suite.command("keys", "revoke", key["id"])).status == 0

    async def accepts(self, key: dict[str, str]) -> bool:
        headers = {"Authorization": f"Bearer {key['key']}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{self.suite.base_url}/models") as answer,
        ):
            assert answer.status in (200, 401)
            return answer.status == 200

    def bus(self) -> Any:
        return connect(self.suite.bus_access(), name="test", wait=PATIENCE_SECONDS)

    async def log(self, service: str) -> str:
        return (self.suite.folder / "data" / "logs" / f"{service}.log").read_text("utf-8")

    async def _probe_tokens(self) -> int:
        async with self.bus() as bus:
            self._journal |= {received.data for received in await bus.read(topology.FLEET_JOURNAL)}
        entries = [ENTRIES.decode(data) for data in self._journal]
        return sum(e.tokens for e in entries if isinstance(e, ProviderCall) and e.machine == "always-1")


@asynccontextmanager
async def trial(folder: Path, engine: Engine, more: str = "") -> AsyncIterator[Trial]:
    config = CONFIG.format(endpoint=engine.base_url, python=sys.executable, faulty_engine=FAULTY_ENGINE, more=more)
    async with up(folder, config) as suite:
        traffic = Traffic(suite, await suite.key())
        traffic.start()
        await traffic.more(5)
        yield Trial(suite, engine, traffic)
        await traffic.stop()
        assert await suite.stop() == 0


def copy_database(path: Path, copy: Path) -> None:
    """As `sqlite3 ledger.sqlite ".backup copy.sqlite"` does."""
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)


def restore_database(copy: Path, path: Path) -> None:
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink()
    copy.rename(path)


@pytest.mark.long
async def test_a_ledger_restored_alone_has_every_count_again(tmp_path: Path, engine: Engine) -> None:
    ledger, copy = tmp_path / "data" / "ledger.sqlite", tmp_path / "copy.sqlite"
    async with trial(tmp_path, engine) as it:
        key = await it.make_key("revoked after the copy")
        await asyncio.to_thread(copy_database, ledger, copy)
        await it.revoke(key)
        await it.traffic.more(20)
        await it.restart(lambda: restore_database(copy, ledger))
        assert not await it.accepts(key)
        await it.expect_recovered()
        assert "ledger_behind_its_marks" in await it.log("meter")

        requests = (await it.usage())["requests"]
        since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        read = await it.suite.json("meter", "reread", "--since", since)
        assert read == {"since": since, "read": requests, "counted": 0, "repeated": requests, "quarantined": 0}

        async with it.bus() as bus:
            early = await send_from_the_future(bus, (await it.suite.json("keys", "list"))["keys"][0]["id"])
        await until(lambda: it.suite.json("gaps", "list"), lambda reply: bool(reply["open"]))
        assert await it.suite.json("gaps", "recount", "--reason", "old") == {"counted": 0, "repeated": 0, "left": 0}
        assert await it.suite.json("gaps", "recount") == {"counted": 1, "repeated": 0, "left": 0}
        await it.expect_counts(early)


async def send_from_the_future(bus: JetStreamBus, key_id: str) -> int:
    """As a gateway whose clock is an hour ahead. Returns the tokens of the event."""
    sent = event("gw-early", 1, completed_at=time.time() + 3600.0, key_id=key_id)
    source = UsageSource(source=sent.source, at=time.time())
    await bus.put(topology.SOURCES, subjects.source_key(sent.source), encode(source))
    await bus.publish(subjects.usage(sent.source), encode(sent))
    return sent.prompt_tokens + sent.completion_tokens


@pytest.mark.long
async def test_a_database_on_postgresql_restored_alone_has_every_count_again(
    tmp_path: Path, engine: Engine, postgres_cluster: str, postgres_url: str
) -> None:
    url, copy = postgres_url.replace("+asyncpg", ""), tmp_path / "copy.dump"
    name = urlsplit(url).path.removeprefix("/")

    def restore() -> None:
        with psycopg.connect(postgres_cluster, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE "{name}"')
            admin.execute(f'CREATE DATABASE "{name}"')
        run_postgres("pg_restore", f"--dbname={url}", str(copy))

    async with trial(tmp_path, engine, f'[database]\nurl = "{url}"') as it:
        await asyncio.to_thread(run_postgres, "pg_dump", "--format=custom", f"--file={copy}", url)
        await it.wake()
        await it.traffic.more(20)
        await it.restart(restore)
        await it.expect_recovered()
        assert "ledger_behind_its_marks" in await it.log("meter")


def run_postgres(program: str, *arguments: str) -> None:
    folder = postgres_binaries()
    assert folder is not None
    subprocess.run([folder / program, *arguments], check=True, capture_output=True)


@pytest.mark.long
async def test_a_bus_restored_alone_goes_on_from_its_copy(tmp_path: Path, engine: Engine) -> None:
    store, copy = tmp_path / "data" / "bus", tmp_path / "copy"

    def restore() -> None:
        shutil.rmtree(store)
        copy.rename(store)

    async with trial(tmp_path, engine) as it:
        first = it.traffic.key
        before, after = await it.make_key("revoked before"), await it.make_key("revoked after")
        await it.revoke(before)
        await it.restart(lambda: shutil.copytree(store, copy))
        await it.revoke(after)
        made = await it.make_key("made after")
        await it.traffic.use(made["key"])
        await it.wake()
        await it.traffic.more(20)
        await it.traffic.use(first)
        await it.restart(restore)
        assert not await it.accepts(before)
        # The ledger's copy of the keys knows what came after the copy of the bus.
        assert not await it.accepts(after)
        assert await it.accepts(made)
        await it.expect_recovered()


@pytest.mark.long
async def test_figures_are_identical_after_bus_and_databases_were_lost_together(tmp_path: Path, engine: Engine) -> None:
    data, copy = tmp_path / "data", str(tmp_path / "copy")
    day = (datetime.now(UTC) - timedelta(days=3)).date().isoformat()
    figures = (("usage", "--days", "2", "--by", "model,tier,key"), ("report", "--day", day), ("invoice", "list"))

    def lose() -> None:
        shutil.rmtree(data / "bus")
        for database in data.glob("*.sqlite*"):
            database.unlink()

    async with trial(tmp_path, engine) as it:
        revoked = await it.make_key("revoked")
        await it.revoke(revoked)
        await import_invoice(it, day, "1.00")
        await it.traffic.pause()
        await it.expect_counts()
        before = [await it.suite.json(*words, "--json") for words in figures]
        saved = await it.suite.command("backup", copy)
        assert saved.status == 0, saved
        assert await it.suite.stop() == 0
        await asyncio.to_thread(lose)
        restored = await it.suite.command("restore", copy)
        assert restored.status == 0, restored
        await it.suite.start()
        assert [await it.suite.json(*words, "--json") for words in figures] == before
        assert not await it.accepts(revoked)
        it.traffic.resume()
        await it.traffic.more(5)
        await it.expect_recovered()


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_books_restored_alone_name_the_missing_reports(tmp_path: Path, engine: Engine) -> None:
    books, copy = tmp_path / "data" / "books.sqlite", tmp_path / "copy.sqlite"
    kept, lost = ((datetime.now(UTC) - timedelta(days=n)).date().isoformat() for n in (3, 2))
    async with trial(tmp_path, engine) as it:
        await import_invoice(it, kept, "1.00")
        for day in (kept, lost):
            await it.suite.json("report", "--day", day)  # its first revision
        await asyncio.to_thread(copy_database, books, copy)
        await import_invoice(it, lost, "2.00")
        await it.wake()
        await it.traffic.pause()
        reply = [await published(it, day) for day in (kept, lost)]
        reports = [await it.suite.json("report", "--day", day) for day in (kept, lost)]
        await it.restart(lambda: restore_database(copy, books))
        await it.traffic.pause()
        assert await it.suite.json("report", "--day", kept) == reports[0]
        alarm = "published_report_differs"
        lines = await until(lambda: it.log("billing"), lambda text: alarm in text, seconds=200.0)
        assert [lost in line for line in lines.splitlines() if alarm in line] == [True]
        await import_invoice(it, lost, "2.00")
        assert (await it.suite.json("report", "--day", lost))["spend"] == reports[1]["spend"]
        again = await until(lambda: published(it, lost), lambda now: now.revision > reply[1].revision, seconds=200.0)
        assert again.usd_per_mtok == reply[1].usd_per_mtok
        assert await published(it, kept) == reply[0]
        await it.expect_recovered()


async def import_invoice(it: Trial, day: str, billed: str) -> None:
    """One charge, in a billing period of its own."""
    file = it.suite.folder / f"{day}.csv"
    start = datetime.fromisoformat(day)
    window = {"Start": f"{day}T00:00:00Z", "End": f"{(start + timedelta(days=1)).date()}T00:00:00Z"}
    row = {f"{of}Period{edge}": at for of in ("Billing", "Charge") for edge, at in window.items()}
    file.write_bytes(focus_csv({**row, "BilledCost": billed, "InvoiceId": day}))
    output = await it.suite.command("invoice", "import", str(file), "--source", "cloud")
    assert output.status == 0, output


async def published(it: Trial, day: str) -> Published:
    """What gateways' customers can read of the day; billing looks once a minute."""

    async def poll() -> Published | None:
        async with it.bus() as bus:
            entry = await bus.get(topology.REPORTS, subjects.published_key(day))
        return None if entry is None else decode(entry.value, Published)

    result = await until(poll, bool, seconds=200.0)
    assert result is not None
    return result
