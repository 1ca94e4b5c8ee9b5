"""The feed of figures and incidents: valid, public, and the same whoever makes it."""

import json
import re
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree as ET

import aiohttp
import msgspec
import pytest

from services.site.core.feed import MOST_ENTRIES, revision_entry
from shared.bus.memory import MemoryBus
from shared.bus.subjects import budget_journal, public_day_key
from shared.bus.topology import REPORTS
from shared.messages.budget import GateTurned
from shared.messages.codec import decode, encode
from shared.messages.public import PublishedDay
from tests.kit.site import CONFIG, running_site

ATOM = "{http://www.w3.org/2005/Atom}"
EXAMPLES = Path(__file__).parents[2] / "contract" / "messages"
PUBLIC = CONFIG + '\npublic_url = "https://site.example"\n'
DAY = decode(json.dumps(json.loads((EXAMPLES / "public_day.v1.json").read_text())).encode(), PublishedDay)


def turned(at: float, *, is_open: bool, scope: str = "fleet", warning: bool = False) -> GateTurned:
    return GateTurned(
        at=at,
        scope=scope,
        open=is_open,
        reason="private words",
        spend=None,
        limit=Decimal(7),
        warning=warning,
        by="mallory",
    )


async def put_day(bus: MemoryBus, day: str, revision: int) -> None:
    figures = msgspec.structs.replace(DAY.figures, day=day, revision=revision)
    await bus.put(REPORTS, public_day_key(day), encode(msgspec.structs.replace(DAY, figures=figures)))


def test_day_without_tokens_is_no_day_without_cost() -> None:
    idle = msgspec.structs.replace(DAY.figures, usd_per_mtok=None, tokens=0, reason="no_tokens")
    entry = revision_entry(msgspec.structs.replace(DAY, figures=idle))
    assert entry.summary.startswith("No tokens were served")
    cheap = msgspec.structs.replace(DAY.figures, usd_per_mtok=Decimal("0.00002"))
    assert "$0.000020 per million" in revision_entry(msgspec.structs.replace(DAY, figures=cheap)).summary


async def feed(folder: Path, bus: MemoryBus) -> ET.Element:
    async with (
        running_site(folder, PUBLIC, bus) as url,
        aiohttp.ClientSession(url) as session,
        session.get("/feed.xml") as response,
    ):
        assert (response.status, response.content_type) == (200, "application/atom+xml")
        return ET.fromstring(await response.text())


def texts(root: ET.Element, name: str) -> list[str]:
    return [element.text or "" for entry in root.iter(f"{ATOM}entry") for element in entry.iter(ATOM + name)]


@pytest.fixture
async def bus() -> MemoryBus:
    bus = MemoryBus()
    await put_day(bus, "2026-11-20", 3)
    for turn in (
        turned(1_763_600_000.0, is_open=True, warning=True),
        turned(1_763_600_100.0, is_open=False),
        turned(1_763_600_200.0, is_open=False),
        turned(1_763_600_300.0, is_open=True),
        turned(1_763_600_400.0, is_open=False, scope="tier.h100x2"),
    ):
        await bus.publish(budget_journal(turn.scope), encode(turn))
    return bus


async def test_it_has_revisions_and_gates_in_public_words(tmp_path: Path, bus: MemoryBus) -> None:
    root = await feed(tmp_path, bus)
    assert set(texts(root, "title")) == {
        "2026-11-20: revision 3, provisional",
        "New requests to every tier are stopped",
        "New requests to every tier are accepted again",
        "New requests to tier h100x2 are stopped",
    }
    text = ET.tostring(root, "unicode")
    assert "private words" not in text
    assert "mallory" not in text


async def test_it_is_a_valid_feed(tmp_path: Path, bus: MemoryBus) -> None:
    root = await feed(tmp_path, bus)
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert root.tag == f"{ATOM}feed"
    for parent in (root, *root.iter(f"{ATOM}entry")):
        for name in ("id", "title", "updated"):
            (element,) = parent.findall(ATOM + name)
            assert element.text
        assert re.fullmatch(moment, parent.findtext(f"{ATOM}updated") or "")
        assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", parent.findtext(f"{ATOM}id") or "")
    updated = texts(root, "updated")
    assert updated == sorted(updated, reverse=True)
    assert root.findtext(f"{ATOM}updated") == updated[0]
    assert len(set(texts(root, "id"))) == len(updated)
    links = [link.get("href") for link in root.iter(f"{ATOM}link")]
    assert all(link and link.startswith("https://site.example/") for link in links)


async def test_ids_stay_and_a_new_revision_has_one_of_its_own(tmp_path: Path, bus: MemoryBus) -> None:
    first = set(texts(await feed(tmp_path, bus), "id"))
    await put_day(bus, "2026-11-20", 4)
    second = set(texts(await feed(tmp_path, bus), "id"))
    assert len(first & second) == 3
    assert len(second) == 4


async def test_garbage_is_left_out_and_the_feed_is_bounded(tmp_path: Path, bus: MemoryBus) -> None:
    await bus.put(REPORTS, public_day_key("2026-11-21"), b"{")
    await bus.publish(budget_journal("fleet"), b"\xff")
    for number in range(MOST_ENTRIES + 20):
        await put_day(bus, f"2025-{number // 28 + 1:02}-{number % 28 + 1:02}", 1)
    assert len(texts(await feed(tmp_path, bus), "id")) == MOST_ENTRIES
