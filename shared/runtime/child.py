"""Supervises the process of one service: starts it, restarts it whenever it dies, stops it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import SpotinferenceError
from shared.messages.codec import Unreadable, decode
from shared.runtime.suite_file import RunningService

LIFELINE_VARIABLE = "SPOTINFERENCE_LIFELINE"
"""Number of an inherited descriptor that reaches end-of-file when the parent has gone."""

START_SECONDS = 60.0
CHUNK_BYTES = 65536
RESTART_SECONDS = 0.5
"""Between a death and the next start, so that a service that dies at once does not spin."""


_ENDED_IN_ORDER = (0, -signal.SIGTERM)
"""A process that is told to end before it can handle the signal ends by it, and has served nobody."""


class StartFailed(SpotinferenceError):
    """A service ended before it was ready."""


@dataclass(eq=False)
class Child:
    """The process of a service, restarted whenever it dies."""

    name: str
    arguments: list[str]
    log_path: Path | None
    """Where its standard error goes; None: to this process's own."""
    on_ready: Callable[[RunningService], None]
    lifeline: int
    stop_s: float
    """How long the process may take to end after SIGTERM. Then it is killed."""
    report: Callable[[str], None]
    """Called with what happens to the process, for people. Must not block."""
    start_s: float | None = START_SECONDS
    """How long the process may take to become ready; None: for ever."""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    running: RunningService | None = None
    process: asyncio.subprocess.Process | None = None
    stopping: bool = False
    _is_ready: bool = False
    _is_outdated: bool = False
    """The process was ended before it was ready, because it has read an old configuration."""
    _task: "asyncio.Task[None] | None" = field(default=None)

    async def start(self) -> None:
        """Start the process and return once it is ready. Raises `StartFailed` with its own last words if it ends."""
        try:
            async with asyncio.timeout(self.start_s):
                await self._start()
        except TimeoutError:
            # Asked to end, it says what it was waiting for.
            reason = None if await self.stop() or not self.log_path else last_plain_line(self.log_path)
            text = f"{reason or f'{self.name} is not ready'}: gave up after {self.start_s:g} s"
            raise StartFailed(f"{text}: see {self.log_path or 'above'}") from None
        self._task = asyncio.create_task(self._supervise(), name=f"keep {self.name}")

    async def _start(self) -> None:
        while True:
            self._is_outdated = False
            await self._spawn()
            try:
                await self._wait_until_ready()
            except StartFailed:
                if not self._is_outdated or self.stopping:
                    raise
            else:
                return

    def reload(self) -> None:
        """Have the process reread its configuration. One that is not ready yet starts again, since it may not have a
        handler for the signal."""
        if self.process is None or self.process.returncode is not None or self.stopping:
            return
        if self._is_ready:
            self.process.send_signal(signal.SIGHUP)
        else:
            self._is_outdated = True
            self.process.terminate()

    async def stop(self) -> str | None:
        """Stop the process; return why it did not end in order, or None if it did or had ended before."""
        self.stopping = True
        fault = None
        process = self.process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(self.stop_s):
                    await process.wait()
            except TimeoutError:
                self.kill()
                fault = f"{self.name} still ran {self.stop_s:g} s after SIGTERM and was killed"
            status = await process.wait()
            if fault is None and status not in _ENDED_IN_ORDER:
                fault = f"{self.name} ended with status {status} after SIGTERM"
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        return fault

    def kill(self) -> None:
        self.stopping = True
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    async def _spawn(self) -> None:
        arguments = [sys.executable, "-m", f"services.{self.name}", *self.arguments, *self._ports()]
        self._is_ready = False
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
        """Return the options that keep the ports over a restart."""
        if self.running is None or self.running.metrics_url is None:
            return []
        ports = ["--metrics-port", self.running.metrics_url.rpartition(":")[2]]
        if self.running.url != self.running.metrics_url:
            ports += ["--port", self.running.url.rpartition(":")[2]]
        return ports

    async def _wait_until_ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        try:
            line = await self.process.stdout.readline()
        except ValueError as error:
            raise StartFailed(f"{self.name} announced itself with an endless line") from error
        if not line:
            await self.process.wait()
            reason = self.log_path and last_plain_line(self.log_path)
            raise StartFailed(reason or f"{self.name} ended before it was ready")
        try:
            self.running = decode(line, RunningService)
        except Unreadable as error:
            raise StartFailed(f"{self.name} announced itself with an unreadable line: {error}") from error
        self._is_ready = True
        self.on_ready(self.running)

    async def _supervise(self) -> None:
        while True:
            assert self.process is not None
            reader = asyncio.create_task(_ignore_output(self.process))
            status = await self.process.wait()
            reader.cancel()
            if self.stopping:
                return
            self.report(f"{self.name} ended with status {status} and is restarted")
            await self._restart()

    async def _restart(self) -> None:
        while True:
            await asyncio.sleep(RESTART_SECONDS)
            try:
                await self._spawn()
                break
            except OSError as error:  # no room for its log, or no free process
                self.report(f"{self.name} cannot be started: {error}")
        with contextlib.suppress(StartFailed):  # it ends, and the next round restarts it
            await self._wait_until_ready()


async def _ignore_output(process: asyncio.subprocess.Process) -> None:
    """Discard what the process prints after its announcement; unread, it would block the process in the end."""
    assert process.stdout is not None
    while await process.stdout.read(CHUNK_BYTES):
        pass


def last_plain_line(log_path: Path) -> str | None:
    """Return the last line of a log that was written for people, if there is one."""
    try:
        with log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - CHUNK_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    plain = [line for line in lines if line.strip() and not line.startswith("{")]
    return plain[-1].removeprefix("spotinference ") if plain else None
