"""The demo says what this host lacks before it starts anything, and prints the waker's journal."""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.bus.ports import Received
from shared.messages.codec import encode
from shared.messages.waker import MachineState, ProviderCall, Transition
from spotinference.demo import preflight
from spotinference.demo.journal_printer import JournalPrinter
from spotinference.demo.suite import DemoFailed, StepPrinter
from spotinference.engine import model_file


class Usage(NamedTuple):
    """Disk usage in bytes."""

    total: int
    used: int
    free: int


def test_preflight_passes_on_this_host(tmp_path: Path) -> None:
    preflight.check(tmp_path)


def test_preflight_fails_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 0, 10**6))
    error = "needs 300 MB, but only 1 MB are free: free some space, or choose another folder with --data-dir"
    with pytest.raises(DemoFailed, match=error):
        preflight.check(tmp_path)


def test_preflight_fails_when_there_is_no_room_for_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setattr(model_file, "models_folder", lambda: models)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**6 if path == models else 10**12))
    with pytest.raises(DemoFailed, match=r"needs 250 MB, .*: free some space, or set XDG_CACHE_HOME to another folder"):
        preflight.check(tmp_path)


def test_preflight_fails_when_the_engine_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "spotinference engine: the small engine needs libgomp.so.1: `apt-get install libgomp1`"
    monkeypatch.setattr(preflight, "ENGINE_CHECK", (sys.executable, "-c", f"import sys; sys.exit({words!r})"))
    with pytest.raises(DemoFailed, match=r"^the small engine needs libgomp.so.1: `apt-get install libgomp1`$"):
        preflight.check(tmp_path)


def _received(entry: Transition | ProviderCall) -> Received:
    return Received(subject="fleet.journal.local-1", data=encode(entry))


def _transition(before: MachineState | None, after: MachineState, reason: str) -> Received:
    return _received(
        Transition(
            at=0, machine="local-1", tier="local", from_state=before, to_state=after, reason=reason, generation=1
        )
    )


PROBE_FAILED = _received(
    ProviderCall(at=0, machine="local-1", call="probe", outcome="failed", code="refused", seconds=0.1)
)
PROBE_DONE = _received(ProviderCall(at=0, machine="local-1", call="probe", outcome="accepted", code="", seconds=0.1))


async def test_journal_entries_are_printed_as_they_arrive(capsys: pytest.CaptureFixture[str]) -> None:
    journal = JournalPrinter(StepPrinter())
    journal.print_entries(
        [_transition(None, "asleep", "seen"), _transition("asleep", "waking", "requested"), PROBE_FAILED]
    )
    journal.print_entries([PROBE_FAILED, PROBE_DONE])
    assert [line.split("  ", 3)[-1] for line in _lines(capsys)] == [
        "journal  new → asleep: seen",
        "journal  asleep → waking: requested",
        "journal  probe: failed refused",
    ]
    with journal.paused():
        journal.print_entries([_transition("waking", "asleep", "no engine")])
        assert _lines(capsys) == []
    assert len(_lines(capsys)) == 1
    await journal.wait_until_wake_fails()
    assert journal.last_reason() == "no engine"


async def test_sleep_before_the_first_wake_does_not_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spotinference.demo.journal_printer.WAIT_SECONDS", 0.0)
    journal = JournalPrinter(StepPrinter())
    journal.print_entries([_transition(None, "asleep", "seen")])
    with pytest.raises(DemoFailed, match="did not fall asleep: seen"):
        await journal.wait_until_asleep()
    journal.print_entries([_transition("waking", "ready", "up"), _transition("falling_asleep", "asleep", "idle")])
    await journal.wait_until_asleep()


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()
