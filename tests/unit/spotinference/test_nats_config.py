"""`spotinference nats-config`: keys are made once, and the output has what the server needs and no secret."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shared.bus import subjects, topology
from shared.bus.access import BusAccess
from shared.bus.permissions import ROLES, Role, permissions
from spotinference.__main__ import main

RESERVED: dict[str, tuple[Role, ...]] = {
    f"$KV.{topology.FLEET.name}.m1": ("waker",),
    f"$KV.{topology.BUDGET.name}.fleet": ("billing",),
    f"$KV.{topology.KEYS.name}.digest": ("site", "operator"),
    subjects.usage("source"): ("gateway", "outbox"),
    subjects.journal("m1"): ("waker", "reaper"),
}
"""Subjects that few users may publish, beside `setup`."""


def nats_config(*words: str) -> Result:
    return CliRunner().invoke(main, ["nats-config", *words])


def test_keys_are_kept_when_it_runs_again(tmp_path: Path) -> None:
    folder = tmp_path / "users"
    first = nats_config("--users-dir", str(folder))
    assert first.exit_code == 0
    assert {file.name for file in folder.iterdir()} == {f"{role}.nk" for role in ROLES if role != "machine"}
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    for file in folder.iterdir():
        assert BusAccess(urls=(), nkey_file=file).seed() not in first.stdout
    assert nats_config("--users-dir", str(folder)).stdout == first.stdout


def test_each_gateway_has_its_own_key_and_subjects_when_several_are_named(tmp_path: Path) -> None:
    result = nats_config("--users-dir", str(tmp_path), "--gateway", "eu", "--gateway", "us")
    assert result.exit_code == 0
    assert not (tmp_path / "gateway.nk").exists()
    assert BusAccess(urls=(), nkey_file=tmp_path / "eu.nk", role="gateway").user == "eu"
    assert result.stdout.count('"activity.eu"') == result.stdout.count('"activity.us"') == 1
    eu = permissions("gateway", "eu")
    assert "_INBOX_eu.>" in eu.subscribe
    assert not any(subjects.matches(pattern, "activity.us") for pattern in eu.publish)
    assert not any(subjects.matches(pattern, "_INBOX_us.x") for pattern in eu.subscribe)


@pytest.mark.parametrize("names", [("a.b",), ("meter",), ("eu", "eu"), ("",), (">",)])
def test_a_gateway_name_is_rejected_when_it_cannot_be_its_own(tmp_path: Path, names: tuple[str, ...]) -> None:
    options = [word for name in names for word in ("--gateway", name)]
    result = nats_config("--users-dir", str(tmp_path), *options)
    assert result.exit_code == 2
    assert "--gateway" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_machine_publishes_its_own_notices_and_nothing_else(tmp_path: Path) -> None:
    result = nats_config("--users-dir", str(tmp_path), "--machine", "gpu-1", "--machine", "gpu-2")
    assert result.exit_code == 0
    assert BusAccess(urls=(), nkey_file=tmp_path / "gpu-1.nk", role="machine").user == "gpu-1"
    assert result.stdout.count('"machine.notice.gpu-1"') == 1
    may = permissions("machine", "gpu-1")
    assert (may.publish, may.deny, may.subscribe) == (("machine.notice.gpu-1",), (), ("_INBOX_gpu-1.>",))


@pytest.mark.parametrize("names", [("a.b",), ("waker",), ("gateway",), ("m", "m")])
def test_a_machine_name_is_rejected_when_it_cannot_be_its_own(tmp_path: Path, names: tuple[str, ...]) -> None:
    options = [word for name in names for word in ("--machine", name)]
    result = nats_config("--users-dir", str(tmp_path), *options)
    assert result.exit_code == 2
    assert "--machine" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "waker.nk").write_text("SUnonsense\n")
    result = nats_config("--users-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "waker.nk: no seed of a user" in result.stderr


@pytest.mark.parametrize("subject", RESERVED)
def test_a_reserved_subject_has_its_writers_alone(subject: str) -> None:
    writers = [
        role for role in ROLES if any(subjects.matches(pattern, subject) for pattern in permissions(role, role).publish)
    ]
    assert writers == [*RESERVED[subject], "setup"]


def test_backup_writes_nothing() -> None:
    written = (
        "$KV.",
        "$O.",
        "usage.",
        "fleet.",
        "$JS.API.STREAM.RESTORE",
        "$JS.API.STREAM.PURGE",
        "$JS.API.STREAM.DELETE",
    )
    assert not [subject for subject in permissions("backup", "backup").publish if subject.startswith(written)]
