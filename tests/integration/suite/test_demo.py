"""The demo itself, as `make demo` runs it; and an invoice with a damaged row, rejected without a trace."""

import fcntl
import re
import sys
from asyncio import create_subprocess_exec
from pathlib import Path
from subprocess import PIPE, STDOUT

import click
import pytest

from spotinference.demo import steps
from spotinference.demo.invoice import DemoFacts, build_invoice
from tests.integration.suite.config import config
from tests.kit.engine import engine_command
from tests.kit.up import processes_of, up

README = Path(__file__).parents[3] / "README.md"
NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z


async def test_demo_shows_the_whole_system(tmp_path: Path) -> None:
    process = await create_subprocess_exec(
        sys.executable, "-m", "spotinference", "demo", "--data-dir", str(tmp_path), stdout=PIPE, stderr=STDOUT
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    for step in ("is asleep", "asleep → waking", "waking → ready", "tokens/s", "falling_asleep → asleep", "is gone"):
        assert step in output, output
    headings = re.findall(r"^\d+\. .+$", README.read_text("utf-8"), re.MULTILINE)
    assert headings != []
    assert [heading for heading in headings if heading not in output] == [], "the README quotes another demo"
    assert output.count("  equal\n") == 2, "the engine's count and the invoice"
    assert re.search(r"^unexplained +0\.0+ +0\.0%$", output, re.MULTILINE), "only what happened is charged for"
    served = re.search(r"([\d,]+) tokens served", output)
    assert served is not None
    assert int(served[1].replace(",", "")) > 3000, "enough for the cost of a million to mean something"
    assert "serves the site at http://127.0.0.1:8081" in output
    assert "<svg" in _page(tmp_path)
    assert processes_of(tmp_path) == []


@pytest.mark.long
async def test_demo_leaves_nothing_behind_when_terminated(tmp_path: Path) -> None:
    process = await create_subprocess_exec(
        sys.executable, "-m", "spotinference", "demo", "--data-dir", str(tmp_path), stdout=PIPE, stderr=STDOUT
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if b"billing " in line:
            break
    assert processes_of(tmp_path) != []
    process.terminate()
    await process.communicate()
    assert process.returncode == 1
    assert processes_of(tmp_path) == []


@pytest.mark.long
async def test_demo_prints_the_reason_when_the_engine_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = '"python", "-m", "spotinference.engine", "--port"'
    assert engine in steps.CONFIG
    broken = """"python", "-c", "raise ImportError('libnothing.so.1: cannot open')\""""
    monkeypatch.setattr(steps, "CONFIG", steps.CONFIG.replace(engine, broken))
    assert await steps.run(tmp_path) == 1
    shown = capsys.readouterr()
    assert "asleep → waking" in shown.out
    assert "waking → asleep: the engine ended with exit status 1" in shown.out
    assert "the demo failed: the machine did not wake" in shown.err
    assert "libnothing.so.1" in shown.err
    assert processes_of(tmp_path) == []


async def test_demo_does_not_touch_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "spotinference.toml"
    mine.write_text("mine")
    with pytest.raises(click.BadParameter, match="is not empty"):
        await steps.run(tmp_path)
    assert mine.read_text() == "mine"
    monkeypatch.chdir(tmp_path)
    (running := steps.DEFAULT_FOLDER / "ledger.sqlite").parent.mkdir(parents=True)
    running.write_text("running")
    with (steps.DEFAULT_FOLDER.parent / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(click.ClickException, match="a demo is running here"):
            await steps.run(None)
    assert running.read_text() == "running"


def _page(folder: Path) -> str:
    (page,) = folder.glob("report-*.html")
    return page.read_text("utf-8")


async def test_damaged_invoice_changes_nothing(tmp_path: Path, tiny_model: Path) -> None:
    facts = DemoFacts(awake=[(NOON - 3600, NOON)], disk=(NOON - 3600, NOON), transfers=[])
    whole = build_invoice(facts, instance="i-1", disk="disk-1").csv
    lines = whole.decode().splitlines()
    lines[2] = "9,9" + lines[2][lines[2].index(",") :]
    damaged = tmp_path / "damaged.csv"
    damaged.write_text("\n".join(lines) + "\n", "utf-8")
    good = tmp_path / "good.csv"
    good.write_bytes(whole)
    async with up(tmp_path, config(engine_command(tiny_model))) as suite:
        assert (await suite.command("invoice", "import", str(good), "--source", "cloud")).status == 0
        before = await suite.json("report", "--day", "2026-11-22")
        rejected = await suite.command("invoice", "import", str(damaged), "--source", "cloud")
        assert rejected.status == 1
        assert "damaged.csv:3:" in rejected.err
        assert "nothing was imported" in rejected.err
        assert await suite.json("report", "--day", "2026-11-22") == before
        assert before["spend"] is not None
        missing = await suite.command("invoice", "import", str(tmp_path / "none.csv"), "--source", "cloud")
        assert missing.status == 1
        assert "none.csv: unreadable" in missing.err
