"""One service's process: started, announced, started again whenever it dies, ended."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import SpotinferenceError
from shared.messages.codec import Unreadable, decode
from shared.runtime.suite_file import RunningService

LIFELINE_VARIABLE = "SPOTINFERENCE_LIFELINE"
"""Number of an inherited descriptor that reads end-of-file when the parent has gone."""

START_SECONDS = 60.0
STOP_SECONDS = 30.0
"""More than any service's `drain_grace`; what still runs then is killed."""
CHUNK_BYTES = 65536
RESTART_SECONDS = 0.5
"""Between a death and the next start; a service that dies at once does not spin."""


class StartFailed(SpotinferenceError):
    """A service ended before it was ready."""


@dataclass(eq=False)
class Child:
    """A service's process, restarted as often as it dies."""

    name: str
    arguments: list[str]
    log_path: Path | None
    """Where its words go; None: where ours go."""
    on_ready: Callable[[RunningService], None]
    lifeline: int
    say: Callable[[str], None]
    """Tells people what happens to it; must not block."""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    running: RunningService | None = None
    process: asyncio.subprocess.Process | None = None
    stopping: bool = False
    _task: "asyncio.Task[None] | None" = field(default=None)

    async def start(self) -> None:
        """Returns when it is ready; `StartFailed` with its own words when it ends instead."""
        await self._spawn()
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._ready()
        except TimeoutError:
            raise StartFailed(
                f"{self.name} was not ready within {START_SECONDS:g} s: see {self.log_path or 'above'}"
            ) from None
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def stop(self) -> None:
        self.stopping = True
        process = self.process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                self.kill()
                await process.wait()
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    def kill(self) -> None:
        self.stopping = True
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    async def _spawn(self) -> None:
        arguments = [sys.executable, "-m", f"services.{self.name}", *self.arguments, *self._ports()]
        with self.log_path.open("ab") if self.log_path else contextlib.nullcontext() as log_file:
            self.process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env={**self.environment, LIFELINE_VARIABLE: str(self.lifeline)},
                pass_fds=(self.lifeline,),
                start_new_session=True,
            )

    def _ports(self) -> list[str]:
        """After a restart the same ports as before."""
        if self.running is None or self.running.metrics_url is None:
            return []
        ports = ["--metrics-port", self.running.metrics_url.rpartition(":")[2]]
        if self.running.url != self.running.metrics_url:
            ports += ["--port", self.running.url.rpartition(":")[2]]
        return ports

    async def _ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        try:
            line = await self.process.stdout.readline()
        except ValueError as error:
            raise StartFailed(f"{self.name} announced itself in a line without end") from error
        if not line:
            await self.process.wait()
            reason = self.log_path and last_plain_line(self.log_path)
            raise StartFailed(reason or f"{self.name} ended before it was ready")
        try:
            self.running = decode(line, RunningService)
        except Unreadable as error:
            raise StartFailed(f"{self.name} announced itself in words that are none: {error}") from error
        self.on_ready(self.running)

    async def _keep(self) -> None:
        while True:
            assert self.process is not None
            reading = asyncio.create_task(_ignore_output(self.process))
            status = await self.process.wait()
            reading.cancel()
            if self.stopping:
                return
            self.say(f"{self.name} ended with {status}, starting it again")
            await self._start_again()

    async def _start_again(self) -> None:
        while True:
            await asyncio.sleep(RESTART_SECONDS)
            try:
                await self._spawn()
                break
            except OSError as error:  # no room for its log, no process to be had
                self.say(f"{self.name} cannot be started: {error}")
        with contextlib.suppress(StartFailed):  # it ends, and the next round starts it again
            await self._ready()


async def _ignore_output(process: asyncio.subprocess.Process) -> None:
    """What it prints after its announcement is for nobody; unread it would block the process in the end."""
    assert process.stdout is not None
    while await process.stdout.read(CHUNK_BYTES):
        pass


def last_plain_line(log_path: Path) -> str:
    """The last line of a log that was written for people."""
    try:
        with log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - CHUNK_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    plain = [line for line in lines if line.strip() and not line.startswith("{")]
    return plain[-1].removeprefix("spotinference ") if plain else ""
