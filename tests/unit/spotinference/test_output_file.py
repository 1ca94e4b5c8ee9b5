"""A file that a command writes is there whole, or the old one is."""

import os
from pathlib import Path

import pytest

from shared.errors import Misconfigured
from spotinference.output_file import write_output


def test_it_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(b"old and longer")
    write_output("--csv", path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.csv"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_output("--csv", tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_output("--csv", pipe, b"new")
        assert os.read(reader, 100) == b"new"
        assert pipe.is_fifo()
    finally:
        os.close(reader)


def test_a_fault_names_option_file_and_reason_and_leaves_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"--html .*none/r\.html: No such file or directory"):
        write_output("--html", tmp_path / "none" / "r.html", b"new")


def test_what_cannot_be_finished_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Misconfigured, match="No space left on device"):
        write_output("--csv", path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.csv"]
