"""Real engines for tests: the small CPU engine with a tiny random model, each in a process of its own."""

import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.meter.core.engine_counters import EngineCounters, parse
from tests.kit.ports import free_port
from tests.kit.tiny_gguf import write_tiny_gguf
from tests.kit.waiting import PATIENCE_SECONDS

STOP_SECONDS = 10.0
NAME = "tiny"


def engine_command(model: Path, name: str = NAME) -> list[str]:
    """A machine's `command` for the configuration, with `{port}` to be filled in."""
    return [sys.executable, "-m", "spotinference.engine", "--model", str(model), "--name", name, "--port", "{port}"]


class Engine:
    """One running engine. `pause` stops the process in the middle of whatever it does, `resume` lets it go on."""

    def __init__(self, model: Path, log: Path) -> None:
        port = free_port()
        self.base_url = f"http://127.0.0.1:{port}"
        command = [part.format(port=port) for part in engine_command(model)]
        with log.open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        self._await_health(log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def counters(self) -> EngineCounters:
        """The engine's own sums, once nothing runs in it any more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            counters = parse(self._get("/metrics"))
            if not counters.running:
                return counters
            time.sleep(0.01)
        raise TimeoutError(f"{self.base_url} still works after {PATIENCE_SECONDS:g} s")

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill9(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill9()

    def _await_health(self, log: Path) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self._get("/health")
            except OSError:
                time.sleep(0.01)
            else:
                return
        self.stop()
        raise TimeoutError(f"the engine does not answer: {log.read_text()[-2000:]}")

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.base_url + path, timeout=PATIENCE_SECONDS) as answer:
            text: str = answer.read().decode()
        return text


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9000 tokens/s, and it stops by itself after some dozens of them."""
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 tokens/s, until `max_tokens`: slow enough to leave, kill or drain in the middle."""
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "slow.gguf", stop=0, layers=100)


@pytest.fixture
def engine(tiny_model: Path, tmp_path: Path) -> Iterator[Engine]:
    yield from _running(tiny_model, tmp_path)


@pytest.fixture
def slow_engine(slow_model: Path, tmp_path: Path) -> Iterator[Engine]:
    yield from _running(slow_model, tmp_path)


def _running(model: Path, folder: Path) -> Iterator[Engine]:
    started = Engine(model, folder / "engine.log")
    try:
        yield started
    finally:
        started.stop()
