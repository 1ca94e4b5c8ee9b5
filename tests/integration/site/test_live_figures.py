"""Figures in the text: what billing published, with dates and state; without it, not known, and the page is there."""

import json
from pathlib import Path

import aiohttp

from shared.bus.memory import MemoryBus
from shared.bus.subjects import HEADLINE_KEY
from shared.bus.topology import REPORTS
from tests.kit.site import running_site

PAGE = "/learn/cost/cost-per-million-tokens"
EXAMPLE = Path(__file__).parents[2] / "contract" / "messages" / "headline.v1.json"


async def text_of(bus: MemoryBus, folder: Path, form: str = "") -> str:
    async with (
        running_site(folder, bus=bus) as url,
        aiohttp.ClientSession(url) as session,
        session.get(PAGE + form) as response,
    ):
        assert response.status == 200
        return await response.text()


async def test_a_figure_stands_with_its_days_and_its_state(tmp_path: Path) -> None:
    bus, headline = MemoryBus(), json.loads(EXAMPLE.read_text())
    headline["at"] = 1_764_200_000.0
    headline["period"] |= {"usd_per_mtok": "1.93", "to": "2026-11-26", "state": "provisional"}
    await bus.put(REPORTS, HEADLINE_KEY, json.dumps(headline).encode())
    note = "(2026-11-23 to 2026-11-26 UTC, provisional, as of 2025-11-26T23:33:20Z)"
    assert f'<a href="/economics">$1.9300</a> {note}' in await text_of(bus, tmp_path)
    assert f"[$1.9300](/economics) {note}" in await text_of(bus, tmp_path, ".md")


async def test_without_a_figure_or_with_garbage_it_is_not_known(tmp_path: Path) -> None:
    bus = MemoryBus()
    assert "not known yet" in await text_of(bus, tmp_path)
    await bus.put(REPORTS, HEADLINE_KEY, b"{")
    assert "not known yet" in await text_of(bus, tmp_path)
