"""Log lines may be lost; nobody waits until somebody reads them."""

import json
import logging
import os
from pathlib import Path

import pytest

from shared.errors import Misconfigured
from shared.runtime.logs import LEVEL_VARIABLE, LIBRARY_LINES_PER_MINUTE, LibraryHandler, LossyStream, configured_level


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


def test_libraries_log_where_and_what_kind_but_none_of_their_words(tmp_path: Path) -> None:
    clock = [0.0]
    with (tmp_path / "log").open("wb") as file:
        logger = logging.getLogger("aiohttp.server.test")
        logger.propagate = False
        logger.addHandler(LibraryHandler(LossyStream(file.fileno()), lambda: clock[0]))
        for minute in range(2):
            clock[0] = 60.0 * minute
            for _ in range(3 * LIBRARY_LINES_PER_MINUTE):
                try:
                    raise ValueError("Authorization: Bearer sk-secret")
                except ValueError:
                    logger.exception("cannot read %s", "sk-secret")
        clock[0] = 120.0
        logger.warning("cannot read %s", "sk-secret")
    text = (tmp_path / "log").read_text()
    assert "sk-secret" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    plain = lines.pop()
    assert len(lines) == 2 * LIBRARY_LINES_PER_MINUTE
    assert lines[0]["event"] == "aiohttp.server.test: ERROR"
    assert lines[0]["error"] == "ValueError"
    assert lines[0]["at"][-1].startswith("test_logs.py:")
    assert plain["event"] == "aiohttp.server.test: WARNING"
    assert plain["at"][-1].startswith("test_logs.py:")
