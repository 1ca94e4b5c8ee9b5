"""The benchmark of the pages runs; what it measures on a busy machine is nobody's promise."""

import asyncio
from pathlib import Path

import pytest

from bench import readers
from bench import site as bench
from tests.kit.site import running_site
from tests.kit.waiting import until


async def test_pages_are_measured_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "GETS", 3)
    monkeypatch.setattr(readers, "PAUSE_SECONDS", 0.0)
    async with running_site(tmp_path) as url:
        percentiles = await bench.measure_pages(url)
        async with readers.reading(url, bench.PAGES) as pages:
            await until(lambda: asyncio.sleep(0, pages[0]), lambda read: read >= len(bench.PAGES))
    assert percentiles.keys() == set(bench.PAGES)
    assert all(0.0 < seconds < 60.0 for seconds in percentiles.values())
