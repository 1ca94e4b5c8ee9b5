"""One entry or message that nobody can read, in a real suite: it is left out, and everything else goes on."""

import asyncio
import json
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from shared.bus.jetstream import connect
from shared.bus.ports import Bus
from shared.bus.subjects import budget_key
from shared.bus.topology import BUDGET, KEYS
from shared.messages.budget import BudgetGate
from shared.messages.codec import decode
from tests.kit.up import UpProcess, up
from tests.kit.waiting import PATIENCE_SECONDS, until

DEEP = b"[" * 6000
CONFIG = """
[gateway]
port = 0
[billing]
daily_budget = "5.00"
[[billing.source]]
name = "broken"
url = "{folder}"
[[tier]]
name = "lab"
provider = "static"
price_per_hour = "1.00"
[[machine]]
id = "lab-1"
tier = "lab"
endpoint = "http://127.0.0.1:1"
[[model]]
name = "tiny"
lineup = ["lab"]
"""


class Pages:
    """What the suite's services answer over HTTP."""

    def __init__(self, suite: UpProcess, session: aiohttp.ClientSession) -> None:
        self._suite = suite
        self._session = session

    async def status(self, key: str) -> int:
        """Of a request with this key; 0 while nobody listens."""
        try:
            async with self._session.get(
                f"{self._suite.base_url}/models", headers={"Authorization": f"Bearer {key}"}
            ) as answer:
                return answer.status
        except aiohttp.ClientError:
            return 0

    async def metric(self, service: str, line: str) -> float:
        """The sample with exactly this name and these labels; -1 where there is none."""
        async with self._session.get(f"{self._suite.services[service]['metrics_url']}/metrics") as page:
            result = [row.rpartition(" ")[2] for row in (await page.text()).splitlines() if row.startswith(f"{line} ")]
        return float(result[0]) if result else -1.0

    async def faults(self, service: str) -> dict[str, str]:
        async with self._session.get(f"{self._suite.services[service]['metrics_url']}/readyz") as page:
            return dict((await page.json())["faults"])

    async def alarms(self, service: str) -> dict[str, str]:
        """Of a service that is ready."""
        async with self._session.get(f"{self._suite.services[service]['metrics_url']}/readyz") as page:
            answer = await page.json()
            return dict(answer.get("alarms", {})) if answer["ready"] else {}


@pytest.mark.long
async def test_what_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    deliveries = tmp_path / "deliveries" / "metadata"
    deliveries.mkdir(parents=True)
    (deliveries / "x-Manifest.json").write_bytes(b'{"dataFiles": ["\xff"]}')
    async with (
        up(tmp_path, CONFIG.format(folder=tmp_path / "deliveries")) as suite,
        connect(suite.bus_access(), name="test", wait=PATIENCE_SECONDS) as bus,
        aiohttp.ClientSession() as session,
    ):
        pages = Pages(suite, session)
        pids = {name: reply["pid"] for name, reply in suite.services.items()}
        await _bad_keys(suite, bus, pages)
        await _bad_usage(bus, pages)
        await _bad_journal(bus, pages)
        await _bad_revision(suite)
        alarms = await until(lambda: pages.alarms("billing"), lambda result: "fetching" in result.get("work", ""))
        assert set(alarms) == {"work"}
        assert "fetching invoices of broken: " in alarms["work"]
        for service in ("meter", "waker", "billing", "bus"):
            assert suite.services[service]["pid"] == pids[service], f"{service} was started again"


async def _bad_keys(suite: UpProcess, bus: Bus, pages: Pages) -> None:
    first, second = [await suite.json("keys", "create", "--name", name) for name in ("first", "second")]
    for key in (first, second):
        await until(lambda key=key: pages.status(key["key"]), lambda status: status == 200)  # type: ignore[misc]  # bound per round
    await bus.publish_volatile("$KV.keys.=zz", b"{}")
    await bus.put(KEYS, "0" * 64, DEEP)
    revoked = await suite.command("keys", "revoke", first["id"])
    assert (revoked.status, revoked.out) == (0, f"revoked {first['id']}\n")
    assert revoked.err.startswith("spotinference: bucket keys: skipped 2 entries that cannot be decoded: ")
    assert len(revoked.err.splitlines()) == 1
    await until(lambda: pages.status(first["key"]), lambda status: status == 401)
    third = await suite.json("keys", "create", "--name", "third")
    await until(lambda: pages.status(third["key"]), lambda status: status == 200)
    listed = await suite.command("keys", "list", "--json")
    assert [row["name"] for row in json.loads(listed.out)["keys"]] == ["first", "second", "third"]
    assert len(listed.err.splitlines()) == 1
    rejected = 'spot_bus_rejected_total{source="keys"}'
    assert await until(lambda: pages.metric("gateway", rejected), lambda seen: seen > 1) == 2.0
    assert await pages.metric("gateway", 'spot_bus_view_age_seconds{bucket="keys"}') >= 0

    await suite.kill9("gateway")  # it comes back past the bad entries
    await until(lambda: pages.status(third["key"]), lambda status: status == 200)
    assert await pages.status(first["key"]) == 401
    log = (suite.folder / "data" / "logs" / "gateway.log").read_text("utf-8")
    assert log.count('"message_rejected"') == 4, "each entry once in each of the two processes"


async def _bad_usage(bus: Bus, pages: Pages) -> None:
    for n, data in enumerate((DEEP, b"\xff", b"", b'{"type": "usage.v1", "id": 7}')):
        await bus.publish("usage.0", data, message_id=f"bad-{n}")
    quarantined = 'spot_meter_quarantined_total{reason="unreadable"}'
    await until(lambda: pages.metric("meter", quarantined), lambda seen: seen == 4)
    assert await pages.faults("meter") == {}


async def _bad_journal(bus: Bus, pages: Pages) -> None:
    transition = {"type": "transition.v1", "machine": "lab-1", "tier": "lab", "at": 1e300, "to_state": "asleep"}
    more = {"from_state": "ready", "reason": "", "generation": 1, "provider_state": "?"}
    for data in (DEEP, b'{"type": "transition.v1", "machine": "\xff"}', json.dumps(transition | more).encode()):
        await bus.publish("fleet.journal.lab-1", data)
    await until(lambda: pages.metric("billing", "spot_billing_unreadable_total"), lambda seen: seen == 3)
    since = time.time()

    async def gate() -> BudgetGate | None:
        entry = await bus.get(BUDGET, budget_key("fleet"))
        return None if entry is None else decode(entry.value, BudgetGate)

    judged = await until(gate, lambda seen: seen is not None and seen.observed_at > since)
    assert judged is not None
    assert judged.open


async def _bad_revision(suite: UpProcess) -> None:
    """A day's stored report is damaged: that day alone is null, and says why."""
    today = datetime.now(UTC).date()
    bad, good = (today - timedelta(days=2)).isoformat(), (today - timedelta(days=3)).isoformat()
    books = sqlite3.connect(suite.folder / "data" / "books.sqlite", timeout=PATIENCE_SECONDS)
    with books:
        books.execute("DELETE FROM revisions WHERE day = ?", (bad,))
        books.execute("INSERT INTO revisions VALUES (?, 9, '{', '{', '', 0)", (bad,))
    books.close()
    one = await suite.command("report", "--day", bad)
    assert one.status == 1
    assert "internal error" in one.err
    assert len(one.err.splitlines()) == 1
    incident = one.err.split("internal error ")[1][:12]
    assert "see the log of billing" in one.err
    log = await asyncio.to_thread((suite.folder / "data" / "logs" / "billing.log").read_text, "utf-8")
    (line,) = [row for row in log.splitlines() if incident in row]
    assert "Unreadable" in line
    assert "Traceback" in line
    days = {row["day"]: row for row in (await suite.json("report", "--days", "2", "--to", bad))["days"]}
    assert days[bad]["failed"]
    assert days[bad]["spend"] is None
    assert "the day could not be made: Unreadable" in days[bad]["reason"]
    assert not days[good]["failed"]
    assert (await suite.command("doctor", "--day", bad)).status == 1
    assert (await suite.command("report", "--day", good)).status == 0
