"""Real service processes for tests: `python -m services.NAME`, started, killed, restarted, and never left behind."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from shared.runtime.suite_file import RunningService
from tests.kit import fork_server
from tests.kit.fork_server import ForkedProcess
from tests.kit.waiting import PATIENCE_SECONDS, until

GARBAGE = "garbage"


class ServiceProcess:
    """One service. `announced` is what it said when it was ready."""

    def __init__(
        self,
        name: str,
        config: Path,
        data_dir: Path,
        *,
        ahead: float = 0.0,
        files: int = 0,
        collects: bool = True,
        code: Path | None = None,
        forks: bool = True,
    ) -> None:
        """`ahead`: how many seconds its clock is; or `files`: how many it may open; or not `collects`: its garbage is
        kept for `garbage`. `code`: of another release. Not `forks`: it starts as an operator starts it, to measure it.
        """
        self.name = name
        self._code = code
        self._program = [f"services.{name}"]
        if ahead:
            self._program = ["tests.kit.service_with_clock_offset", str(ahead), name]
        elif files:
            self._program = ["tests.kit.service_with_file_limit", str(files), name]
        elif not collects:
            self._program = ["tests.kit.service_without_collection", str(data_dir / GARBAGE), name]
        # Another release, and a clock that modules have when they are imported, need an interpreter of their own.
        self._forks = forks and code is None and not ahead
        self._garbage = data_dir / GARBAGE
        self._arguments = ["--config", str(config), "--data-dir", str(data_dir)]
        self.log = data_dir / f"{name}.log"
        self.announced = RunningService(service=name, url="", pid=0)
        self.process: asyncio.subprocess.Process | ForkedProcess | None = None

    async def start(self) -> None:
        """`AssertionError` with its log when it ends instead of getting ready."""
        with self.log.open("ab") as log:
            if self._forks:
                self.process = await fork_server.start(self.name, *self._program, *self._arguments, stderr=log)
            else:
                words = (sys.executable, "-m", *self._program, *self._arguments)
                self.process = await asyncio.create_subprocess_exec(
                    *words, cwd=self._code, stdout=subprocess.PIPE, stderr=log
                )
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            line = await self.process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        self.announced = msgspec.json.decode(line, type=RunningService)

    async def garbage(self) -> list[str]:
        """What only a garbage collection would have freed since the last call, if the service does not collect."""
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)
        await until(lambda: asyncio.sleep(0, self._garbage.exists()), bool)
        lines = self._garbage.read_text("utf-8").splitlines()
        self._garbage.unlink()
        return lines

    async def kill9(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM and its exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.process.wait()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def running(
    name: str,
    config: Path,
    data_dir: Path,
    *,
    ahead: float = 0.0,
    files: int = 0,
    collects: bool = True,
    forks: bool = True,
) -> AsyncIterator[ServiceProcess]:
    """A ready service process, gone afterwards whatever happened. The options are those of `ServiceProcess`."""
    service = ServiceProcess(name, config, data_dir, ahead=ahead, files=files, collects=collects, forks=forks)
    try:
        await service.start()
        yield service
    finally:
        if service.process is not None and service.process.returncode is None:
            await service.kill9()
