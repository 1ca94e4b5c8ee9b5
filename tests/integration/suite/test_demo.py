"""The demo itself, as `make demo` runs it."""

import fcntl
import re
import sys
from asyncio import create_subprocess_exec
from pathlib import Path
from subprocess import PIPE, STDOUT

import click
import pytest

from spotinference.demo import steps
from tests.kit.up import processes_of

README = Path(__file__).parents[3] / "README.md"


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
