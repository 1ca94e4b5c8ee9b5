"""The performance page, from published runs and a ledger that tests know."""

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.performance import SqlPerformanceReader
from services.meter.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.meter.core.batch import parse_batch
from services.meter.core.performance import build_figures, requested_hours
from services.site.core.performance import LEAST_REQUESTS, live_figures, newest_runs
from shared import database
from shared.bus.memory import MemoryBus
from shared.bus.subjects import METER_FIGURES, bench_key, published_key
from shared.bus.topology import REPORTS
from shared.messages.bench import BenchRun, Load, Side
from shared.messages.codec import decode, encode
from shared.messages.meter_figures import Figures, FiguresQuery, FiguresRow, Spread
from tests.kit.site import running_site
from tests.unit.meter.events import MIDNIGHT, event

NOW = MIDNIGHT + 43_200.0
DAY_S = 86_400.0


def spread(middle: float, count: int = 40) -> Spread:
    return Spread(count=count, mean=middle, p50=middle, p95=middle * 2, p99=middle * 3)


def side(rate: float) -> Side:
    return Side(
        requests=40,
        failed=1,
        seconds=60.0,
        prompt_tokens=4000,
        completion_tokens=8000,
        rate=rate,
        stream_rate=spread(rate / 8),
        ttft=spread(0.25),
        tpot=spread(0.01),
        client_cpu=0.3,
    )


def run(name: str, at: float, *, rate: float = 900.0, published: float | None = NOW, tier: str = "h100x2") -> BenchRun:
    load = Load(concurrency=8, requests=40, rounds=2, prompt_tokens=100, tokens=200, ignore_eos=True, pairs=20)
    return BenchRun(
        id=name,
        at=at,
        model="m",
        tier=tier,
        machine="MACHINE-1",
        machines=1,
        engine="vllm",
        engine_version="0.32",
        gateway_version="0.1.0",
        load=load,
        gateway=side(rate),
        direct=side(rate + 10),
        added=spread(0.0009, 20),
        published_at=published,
    )


def test_newest_published_run_is_the_figure() -> None:
    runs = [
        run("1", NOW - 3 * DAY_S, rate=1.0),
        run("3", NOW - DAY_S, rate=3.0, published=None),
        run("2", NOW - 2 * DAY_S, rate=2.0, published=NOW - 10),
        run("4", NOW, rate=4.0, tier="spot"),
    ]
    assert [(r.tier, r.tokens_per_second) for r in newest_runs(runs, NOW)] == [("h100x2", 1.0), ("spot", 4.0)]


@pytest.mark.parametrize(
    ("ages", "certainty"),
    [((1, 2, 3), "measured"), ((1, 2), "experimental"), ((31, 32, 33), "experimental"), ((1, 2, 31), "experimental")],
)
def test_experimental_is_computed_from_count_and_age(ages: tuple[int, ...], certainty: str) -> None:
    (shown,) = newest_runs([run(str(age), NOW - age * DAY_S) for age in ages], NOW)
    assert shown.certainty == certainty


def test_row_is_experimental_if_one_of_its_figures_is() -> None:
    measures = {"overhead": spread(0.001, 400), "ttft": spread(0.2, 99), "stream_rate": spread(90.0, 100)}
    row = FiguresRow(dimensions={"tier": "t", "model": "m"}, measures=measures, output=None, total=None)
    (shown,) = live_figures(Figures(start=0, end=3600, relative_error=0.01, rows=(row,)))
    assert (shown.certainty, LEAST_REQUESTS) == ("experimental", 100)


class Ledger:
    """A meter's ledger with some requests, which answers as the meter does."""

    def __init__(self, reader: SqlPerformanceReader) -> None:
        self._reader = reader

    async def answer(self, data: bytes) -> bytes:
        return encode(await self.figures(decode(data, FiguresQuery)))

    async def figures(self, query: FiguresQuery) -> Figures:
        return build_figures(query, await self._reader.read(query, requested_hours(query)))


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    async with database.migrated_engine(database_url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        events = [
            event(source_seq=i, tier="h100x2", model="m", first_token=0.1 + i / 1000, duration=2.0)
            for i in range(1, 130)
        ]
        events.append(event(source_seq=130, tier="h100x2", model="m", first_token=0.5, wake_wait=100.0, duration=110.0))
        await SqlLedger(engine).record(parse_batch([encode(e) for e in events], NOW))
        yield Ledger(SqlPerformanceReader(engine))


async def test_page_json_and_csv_have_the_figures_of_the_meter(tmp_path: Path, ledger: Ledger) -> None:
    bus = MemoryBus()
    await bus.put(REPORTS, bench_key("1"), encode(run("1", NOW - DAY_S)))
    await bus.put(REPORTS, bench_key("2"), b"no run")
    await bus.put(REPORTS, published_key("2026-11-22"), b"{}")
    await bus.respond("meter", METER_FIGURES, ledger.answer)
    end = MIDNIGHT + DAY_S
    expected = (await ledger.figures(FiguresQuery(start=end - 7 * DAY_S, end=end))).rows[0]
    async with running_site(tmp_path, bus=bus, now=lambda: NOW) as url, aiohttp.ClientSession(url) as client:
        page = await _json(client)
        async with client.get("/performance") as response:
            html = await response.text()
        async with client.get("/performance.csv") as response:
            rows = list(csv.DictReader(io.StringIO(await response.text())))
    (measured,), (live,) = page["runs"], page["live"]
    assert (measured["tokens_per_second"], measured["certainty"]) == (900.0, "experimental")
    ttft = expected.measures["ttft"]
    assert live["ttft_seconds"] == {"count": ttft.count, "p50": ttft.p50, "p95": ttft.p95}
    assert (live["certainty"], ttft.count >= LEAST_REQUESTS) == ("measured", True)
    assert live["minutes"] == expected.output.minutes if expected.output else 0
    warm, cold = page["first_tokens"]
    assert [(one["kind"], one["seconds"]["count"], one["certainty"]) for one in (warm, cold)] == [
        ("warm", 129, "measured"),
        ("cold", 1, "experimental"),
    ]
    assert cold["seconds"]["p95"] == pytest.approx(100.5, rel=0.01)
    sources = ["live traffic, ready machine", "live traffic, with a wake", "live traffic", "live traffic"]
    assert [row["source"] for row in rows] == ["measured run", *sources]
    assert float(rows[3]["ttft_seconds_p95"]) == ttft.p95
    assert rows[2]["ttft_seconds_p95"] == str(cold["seconds"]["p95"])
    assert "had to wake" in html
    assert "8 streams at once, 40 requests, 1 of them failed" in html
    assert "experimental" in html
    for text in (html, str(page), str(rows)):
        assert "MACHINE-1" not in text
    assert bus.rejections.counts[REPORTS.name]


async def test_live_figures_are_not_known_while_the_ledger_is_silent(tmp_path: Path) -> None:
    async with running_site(tmp_path, now=lambda: NOW) as url, aiohttp.ClientSession(url) as client:
        page = await _json(client)
        async with client.get("/performance") as response:
            assert page["live_fault"] in await response.text()
    assert page["live"] == []


async def _json(client: aiohttp.ClientSession) -> dict[str, Any]:
    async with client.get("/performance.json") as response:
        page: dict[str, Any] = await response.json()
        return page
