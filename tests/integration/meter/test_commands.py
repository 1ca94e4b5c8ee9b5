"""`spotinference usage` and `spotinference gaps` against a running meter."""

import asyncio
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shared.bus import topology
from shared.bus.jetstream import JetStreamBus
from shared.runtime.suite_file import BUS_URL_VARIABLE
from spotinference.__main__ import main
from tests.integration.meter.test_process import MarkWatcher, meter_on
from tests.kit.usage import send
from tests.kit.waiting import until
from tests.unit.meter.events import MIDNIGHT, event

DAY = "2026-11-23"
EVENTS = [
    event(source_seq=1, completed_at=MIDNIGHT + 59, model="a"),
    event(source_seq=2, completed_at=MIDNIGHT + 3600, model="b", outcome="failed"),
    event(source_seq=3, completed_at=MIDNIGHT + 86400, model="a", machine="l4x2-2"),
    event(source_seq=6, completed_at=MIDNIGHT + 86401, model="a"),
]


@pytest.fixture
def run(nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv(BUS_URL_VARIABLE, nats_url)

    async def command(*arguments: str, status: int = 0) -> Result:
        done = await asyncio.to_thread(CliRunner().invoke, main, [*arguments, "--data-dir", str(tmp_path)])
        assert done.exit_code == status, done.output
        return done

    return command


async def test_usage_by_dimensions_and_closing_a_gap(
    bus: JetStreamBus, nats_url: str, tmp_path: Path, run: Callable[..., Any]
) -> None:
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    for sent in EVENTS:
        await send(bus, sent)
    async with meter_on(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}"):
        await watcher.reach("gw-1", 3)
        await until(lambda: bus.backlog(topology.LEDGER), lambda left: left == 0)

        day = json.loads((await run("usage", "--day", DAY, "--json")).stdout)
        assert (day["day"], day["totals"]["requests"], day["rows"]) == (DAY, 2, [])
        assert day["complete"] == (not day["reasons"])

        span = ("--from", DAY, "--to", "2026-11-24")
        days = json.loads((await run("usage", *span, "--by", "day,model", "--json")).stdout)
        assert (days["from"], days["to"], days["totals"]["requests"]) == (DAY, "2026-11-24", 4)
        assert [(row["day"], row["model"], row["requests"]) for row in days["rows"]] == [
            (DAY, "a", 1),
            (DAY, "b", 1),
            ("2026-11-24", "a", 2),
        ]
        assert not days["complete"]
        assert any("2 events of gw-1 are missing" in reason for reason in days["reasons"])

        same = ("--days", "2", "--to", "2026-11-24")
        assert json.loads((await run("usage", *same, "--by", "day,model", "--json")).stdout) == days
        file = tmp_path / "rows.csv"
        await run("usage", *same, "--by", "minute,direction,outcome", "--csv", str(file))
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        assert len(rows) == 3 * 3
        assert [row["minute"] for row in rows[::3]] == [
            "2026-11-23T00:00:00Z",
            "2026-11-23T01:00:00Z",
            "2026-11-24T00:00:00Z",
        ]
        assert sum(int(row["prompt_tokens"]) for row in rows) == 40
        assert "not complete: 2 events of gw-1" in (await run("usage", *span, "--by", "tier")).stdout

        by_colour = await run("usage", *span, "--by", "day,colour", status=2)
        assert "expected some of day, hour, " in by_colour.output
        listed = json.loads((await run("gaps", "list", "--json")).stdout)
        assert [(gap["source"], gap["first"], gap["last"]) for gap in listed["open"]] == [("gw-1", 4, 5)]
        close = ("gaps", "close", "gw-1", "4", "5", "--by", "Ada", "--reason", "the disk burnt")
        assert "open gaps: 0" in (await run(*close)).stdout
        assert "are not all missing" in (await run(*close, status=1)).output
        assert "Ada" in (await run("gaps", "list")).stdout
        later = json.loads((await run("usage", *span, "--json")).stdout)
        assert not any("missing" in reason for reason in later["reasons"])
    await watch.stop()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--day", DAY, "--days", "2"),
        ("--day", DAY, "--to", DAY),
        ("--days", "0"),
        ("--days", "2", "--to", "soon"),
        ("--from", DAY, "--days", "2"),
    ],
)
async def test_conflicting_options_are_rejected(run: Callable[..., Any], wrong: tuple[str, ...]) -> None:
    await run("usage", *wrong, status=2)
