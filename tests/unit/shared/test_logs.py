"""Log lines may be lost; nobody waits until somebody reads them."""

import logging
import os
from pathlib import Path

import pytest

from shared.errors import Misconfigured
from shared.runtime.logs import LEVEL_VARIABLE, LossyStream, configured_level


def test_a_pipe_that_nobody_reads_takes_what_it_has_room_for() -> None:
    reader, writer = os.pipe()
    stream = LossyStream(writer)
    for _ in range(1000):
        stream.write("x" * 999 + "\n")  # would block for ever
    stream.write("y" * 100_000 + "\n")
    assert 0 < len(os.read(reader, 10_000_000)) < 1_000_000
    stream.write("again\n")
    assert os.read(reader, 100) == b"again\n"
    os.close(reader)
    stream.write("whoever read has gone\n")
    os.close(writer)
    stream.write("so has the pipe\n")


def test_a_file_takes_everything(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        stream = LossyStream(file.fileno())
        stream.write("x" * 1_000_000)
        stream.write("\ud800\n")  # no text of ours, and no reason to fail
        stream.flush()
    assert (tmp_path / "log").read_bytes() == b"x" * 1_000_000 + b"?\n"


def test_log_level_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    assert configured_level() == logging.INFO
    monkeypatch.setenv(LEVEL_VARIABLE, "Warning")
    assert configured_level() == logging.WARNING
    monkeypatch.setenv(LEVEL_VARIABLE, "loud")
    with pytest.raises(Misconfigured, match="SPOTINFERENCE_LOG_LEVEL must be one of debug, info, warning, error"):
        configured_level()
