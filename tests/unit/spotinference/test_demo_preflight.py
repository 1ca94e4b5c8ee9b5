"""The demo names what this machine lacks before it starts anything, and shows what the waker writes."""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.bus.ports import Received
from shared.messages.codec import encode
from shared.messages.waker import MachineState, ProviderCall, Transition
from spotinference.demo import preflight
from spotinference.demo.journal_printer import Messages
from spotinference.demo.suite import DemoFailed, Stage
from spotinference.engine import model_file


class Usage(NamedTuple):
    """Of a disk."""

    total: int
    used: int
    free: int


def test_a_machine_that_has_everything_passes(tmp_path: Path) -> None:
    preflight.check(tmp_path)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 0, 10**6))
    complaint = "300 MB are needed in .*, and 1 MB are free: make room, or name another with --data-dir"
    with pytest.raises(DemoFailed, match=complaint):
        preflight.check(tmp_path)


def test_no_room_for_the_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setattr(model_file, "models_folder", lambda: models)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**6 if path == models else 10**12))
    with pytest.raises(DemoFailed, match=r"250 MB are needed in .*: make room, or set XDG_CACHE_HOME to another"):
        preflight.check(tmp_path)


def test_an_engine_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_what_the_waker_writes_is_shown_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    messages = Messages(Stage())
    messages.tell([_transition(None, "asleep", "seen"), _transition("asleep", "waking", "asked"), PROBE_FAILED])
    messages.tell([PROBE_FAILED, PROBE_DONE])
    assert [line.split("  ", 3)[-1] for line in _lines(capsys)] == [
        "journal  first sight → asleep: seen",
        "journal  asleep → waking: asked",
        "journal  probe: failed refused",
    ]
    with messages.held():
        messages.tell([_transition("waking", "asleep", "no engine")])
        assert _lines(capsys) == []
    assert len(_lines(capsys)) == 1
    await messages.wake_failed()
    assert messages.last_reason() == "no engine"


async def test_sleep_before_the_first_wake_is_not_the_one_that_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spotinference.demo.journal_printer.WAIT_SECONDS", 0.0)
    messages = Messages(Stage())
    messages.tell([_transition(None, "asleep", "seen")])
    with pytest.raises(DemoFailed, match="did not fall asleep: seen"):
        await messages.reached_sleep()
    messages.tell([_transition("waking", "ready", "up"), _transition("falling_asleep", "asleep", "idle")])
    await messages.reached_sleep()


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()
