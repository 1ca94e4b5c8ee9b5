"""The provider `process`: engines that are commands of this host."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.waker.adapters.process import LocalMachine, LocalMachines
from services.waker.adapters.sleep_mode import SleepingMachine
from services.waker.ports import CallResult
from tests.contract.providers import ProviderContract, observation, reach
from tests.kit.waiting import until

ENGINE = """
import http.server, os, signal, sys, threading
with open(sys.argv[1], "a") as log: log.write("woken\\n")
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), http.server.BaseHTTPRequestHandler)
signal.signal(signal.SIGTERM, lambda *_: threading.Timer(0.3, os._exit, [0]).start())
server.serve_forever()
"""
"""It notes that it began, and takes a moment to end."""
SLEEPER = Path(__file__).parents[1] / "integration" / "waker" / "faulty_engine.py"


async def listens(endpoint: str | None) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(endpoint or "").port)
    except OSError:
        return False
    writer.close()
    return True


class Machines(LocalMachines):
    """Their starts return when the engine listens: it has noted by then that it began, and minds SIGTERM."""

    async def start(self, machine: str, generation: int) -> CallResult:
        result = await super().start(machine, generation)
        if result.outcome == "accepted":
            await until(lambda: listens(result.endpoint), bool)
        return result


@dataclass
class ProcessRig:
    provider: LocalMachines
    log: Path
    machine: str = "m1"

    async def wakes(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[ProcessRig]:
    """Its engine ends with the test, or with the test's process."""
    log = tmp_path / "woken"
    read_end, write_end = os.pipe()
    command = (sys.executable, "-c", ENGINE, str(log), "{port}")
    rig = ProcessRig(Machines({"m1": LocalMachine(tmp_path / "m1", command, read_end)}), log)
    yield rig
    await rig.provider.stop("m1", force=False)
    await reach(rig, "stopped")
    os.close(write_end)
    os.close(read_end)


@dataclass
class SleepingRig(ProcessRig):
    async def wakes(self) -> int:
        """Starts of its engine, and wakes."""
        return self.log.read_text().count("takes") if self.log.exists() else 0


@pytest.fixture
async def sleeping(tmp_path: Path) -> AsyncIterator[SleepingRig]:
    """Its engine, asleep too, ends with the test, or with the test's process."""
    log = tmp_path / "gpus"
    read_end, write_end = os.pipe()
    command = (sys.executable, "-S", str(SLEEPER), "--port", "{port}", "--gpus", str(log))
    rig = SleepingRig(Machines({"m1": SleepingMachine(tmp_path / "m1", command, read_end, level=1)}), log)
    yield rig
    await rig.provider.close()
    await rig.provider.stop("m1", force=True)
    await until(lambda: observation(rig), lambda seen: seen.provider_state == "stopped")
    os.close(write_end)
    os.close(read_end)


class TestSleepMode(ProviderContract):
    @pytest.fixture
    def rig(self, sleeping: SleepingRig) -> SleepingRig:
        return sleeping


class TestProcess(ProviderContract):
    @pytest.fixture
    def rig(self, local: ProcessRig) -> ProcessRig:
        return local
