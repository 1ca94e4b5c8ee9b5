"""The reliability page, from a journal and a ledger that tests know."""

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shared.bus.memory import MemoryBus
from shared.bus.subjects import METER_RESPONSES
from shared.bus.topology import WAKE_HISTORY
from shared.messages.codec import decode, encode
from shared.messages.responses import Responses, ResponsesQuery, ResponsesRow, ResponseSums
from tests.kit.site import running_site
from tests.kit.waiting import until
from tests.unit.site.journal import KEY, NOON, messages, phase, transition, whole_wake

DAYS = {
    "2026-11-23": ResponseSums(responses=100, succeeded=97, unavailable=2, timed_out=1),
    "2026-11-22": ResponseSums(responses=50, succeeded=50),
    "2026-10-05": ResponseSums(responses=10, succeeded=5, unavailable=5),
    "2024-02-29": ResponseSums(responses=7, succeeded=6, timed_out=1),
}


async def answer(data: bytes) -> bytes:
    """What the ledger would answer."""
    query = decode(data, ResponsesQuery)
    last = query.to or query.day
    rows = {day: sums for day, sums in sorted(DAYS.items()) if query.day <= day <= last}
    totals = ResponseSums(responses=sum(sums.responses for sums in rows.values()))
    return encode(
        Responses(
            day=query.day,
            to=query.to,
            totals=totals,
            rows=tuple(ResponsesRow(dimensions={"day": day}, sums=sums) for day, sums in rows.items()),
        )
    )


class Scene:
    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.client = client

    async def text(self, path: str) -> str:
        async with self.client.get(path) as response:
            assert response.status == 200, await response.text()
            return await response.text()

    async def data(self) -> dict[str, Any]:
        async with self.client.get("/reliability.json") as response:
            page: dict[str, Any] = await response.json()
            return page


async def fill(bus: MemoryBus) -> None:
    """Three wakes that were ready and one that failed, over two days and two months."""
    entries = [
        *whole_wake(NOON - 3600, 95.0, wake="a"),
        *whole_wake(NOON - 86400, 500.0, wake="b", machine="m2", tier="spot"),
        *whole_wake(NOON - 40 * 86400, 640.0, wake="c", machine="m3"),
        transition(NOON - 7200, "asleep", "waking", wake="d", machine="m4"),
        phase(NOON - 6800, "booting", 400.0, done=False, wake="d", machine="m4"),
        transition(NOON - 6800, "waking", "falling_asleep", wake="d", machine="m4"),
    ]
    for subject, data in messages(entries):
        await bus.publish(subject, data)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    bus = MemoryBus()
    await fill(bus)
    await bus.respond("meter", METER_RESPONSES, answer)
    async with running_site(tmp_path, bus=bus, now=lambda: NOON) as url, aiohttp.ClientSession(url) as client:
        await until(lambda: bus.backlog(WAKE_HISTORY), lambda backlog: backlog == 0)
        yield Scene(client)


async def test_page_has_the_figures_of_journal_and_ledger(scene: Scene) -> None:
    page = await scene.data()
    everything, first, second = page["tiers"]
    assert (everything["seconds"]["count"], everything["failed"]) == (2, 1)
    assert (everything["within_target"], everything["within_cap"]) == (1, 2)
    assert (first["tier"], first["seconds"]["p50"]) == ("h100x2", 95.0)
    assert (second["tier"], second["seconds"]["p50"]) == ("spot", 500.0)
    assert [(row["tier"], row["wakes"], row["last_day"]) for row in page["failed"]] == [("h100x2", 1, "2026-11-23")]
    months = {row["period"]: row for row in page["months"]}
    assert list(months) == ["2026-11", "2026-10", "2024-02"]
    assert (months["2026-11"]["responses"], months["2026-11"]["unavailable"]) == (150, 2)
    assert (months["2026-10"]["wakes"]["worst"], months["2026-10"]["succeeded"]) == (640.0, 5)
    assert months["2024-02"]["timed_out"] == 1
    assert page["days"][0]["failed_wakes"] == 1
    feed = await scene.text("/feed.xml")
    assert "2026-11-23: 1 wake of tier h100x2 failed" in feed
    assert "1 of them: The machine did not start." in feed
    assert not [name for name in ("m4", KEY, "not public") if name in feed]
    phases = {(row["tier"], row["phase"]): row["seconds"]["count"] for row in page["phases"]}
    assert phases == {(t, p): 1 for t in ("h100x2", "spot") for p in ("calling", "loading")}


async def test_page_and_csv_have_the_figures_of_the_json(scene: Scene) -> None:
    page, html = await scene.data(), await scene.text("/reliability")
    assert "1 min 35 s <small>of 1 only</small>" in html
    assert "97.33 %" not in html.split("Months")[0]
    rows = {row["period"]: row for row in csv.DictReader(io.StringIO(await scene.text("/reliability.csv")))}
    for period in (*page["months"], *page["days"]):
        row = rows[period["period"]]
        assert (int(row["responses"]), int(row["status_503"])) == (period["responses"], period["unavailable"])
        assert int(row["wakes_ready"]) == period["wakes"]["count"]
        assert row["wake_p95_seconds"] == ("" if period["wakes"]["p95"] is None else str(period["wakes"]["p95"]))


async def test_page_names_no_key_machine_or_reason_of_the_journal(scene: Scene) -> None:
    for path in ("/reliability", "/reliability.json", "/reliability.csv"):
        text = await scene.text(path)
        for secret in (KEY, "m2", "m4", "not public"):
            assert secret not in text, path


async def test_responses_are_not_known_while_the_ledger_is_silent(tmp_path: Path) -> None:
    bus = MemoryBus()
    await fill(bus)
    async with running_site(tmp_path, bus=bus, now=lambda: NOON) as url, aiohttp.ClientSession(url) as client:
        await until(lambda: bus.backlog(WAKE_HISTORY), lambda backlog: backlog == 0)
        page = await Scene(client).data()
        assert page["responses_fault"]
        assert page["months"][0]["responses"] is None
        assert page["months"][0]["wakes"]["count"] == 2
        assert "not known" in await Scene(client).text("/reliability")


async def test_page_is_readable_without_any_wake(tmp_path: Path) -> None:
    async with running_site(tmp_path, now=lambda: NOON) as url, aiohttp.ClientSession(url) as client:
        text = await Scene(client).text("/reliability")
    assert "No machine was woken" in text
    assert "none" in text
