"""Starts service processes by forking one that has imported the service already.

An import takes most of a second of CPU, and the tests start a thousand services. A forked one is a process of its own:
it has its own memory, files, signals and exit status, and runs the `__main__` that `python -m services.NAME` runs. What
a test says of the start itself needs a new interpreter.

`python -m tests.kit.fork_server NAME FD` is the server: it gets requests over the socket FD, and ends with the tests.
"""

import asyncio
import atexit
import importlib
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

WITH_DATABASE = ("meter", "billing", "site")
LATE = (
    "aiosqlite",
    "alembic.command",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
)
"""What these import once they have a database's address."""
MOST_REQUEST_BYTES = 128 * 1024
"""Of one request, which is one packet."""


class Request(msgspec.Struct):
    """A process to start. With it come its standard output, its standard error, and where its exit status goes."""

    argv: list[str]
    """A module and its arguments."""
    environment: dict[str, str]
    folder: str
    umask: int


class ForkedProcess(asyncio.Protocol):
    """As much of `asyncio.subprocess.Process` as tests use. It reads the id and then the exit status from a pipe."""

    def __init__(self, stdout: asyncio.StreamReader) -> None:
        self.stdout: asyncio.StreamReader | None = stdout
        self.pid = 0
        self.returncode: int | None = None
        self._line = b""
        self.started, self._ended = asyncio.Event(), asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Take the numbers, each on a line of its own."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if not self.pid:
                self.pid = int(line)
                self.started.set()
            else:
                self.returncode = int(line)
                self._ended.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Wake whoever waits: there is nobody left to say how it ended."""
        if self.returncode is None:
            self.returncode = -signal.SIGKILL
        self.started.set()
        self._ended.set()

    def send_signal(self, number: int) -> None:
        """Raises `ProcessLookupError` if it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode


_servers: dict[str, socket.socket] = {}


def _server(service: str) -> socket.socket:
    if service not in _servers:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, "-m", __name__, service, str(theirs.fileno())]
            subprocess.Popen(words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        atexit.register(ours.close)
        _servers[service] = ours
    return _servers[service]


async def start(service: str, *argv: str, stderr: BinaryIO, environment: dict[str, str] | None = None) -> ForkedProcess:
    """Return the process of a module that runs a service.

    `argv`: the module and its arguments. `environment`: in place of ours.
    """
    umask = os.umask(0)
    os.umask(umask)
    values = dict(os.environ) if environment is None else environment
    request = Request(list(argv), values, str(Path.cwd()), umask)
    loop = asyncio.get_running_loop()
    output, output_end = os.pipe()
    status, status_end = os.pipe()
    try:
        socket.send_fds(_server(service), [msgspec.json.encode(request)], [output_end, stderr.fileno(), status_end])
    except OSError:
        _servers.pop(service).close()  # it could not import the service, as it has said: the next test tries again
        raise
    finally:
        os.close(output_end)
        os.close(status_end)
    reader = asyncio.StreamReader()
    process = ForkedProcess(reader)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0))
    await loop.connect_read_pipe(lambda: process, os.fdopen(status, "rb", 0))
    await process.started.wait()
    return process


def _serve(server: socket.socket) -> tuple[Request, list[int]] | None:
    """Fork for each request: returns it in the new process. None once the tests have ended."""
    wake, wake_end = os.pipe()
    os.set_blocking(wake_end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_end)
    statuses: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([server.fileno(), wake], [], [])
        if wake in readable:
            os.read(wake, 1024)
            _report_ended(statuses)
        if server.fileno() in readable:
            packet, files, _, _ = socket.recv_fds(server, MOST_REQUEST_BYTES, 3)
            if not packet:
                return None
            output, errors, status = files
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return msgspec.json.decode(packet, type=Request), [output, errors]
            os.write(status, b"%d\n" % pid)
            statuses[pid] = status
            os.close(output)
            os.close(errors)


def _report_ended(statuses: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            file = statuses.pop(pid)
            with suppress(BrokenPipeError):  # its test has ended
                os.write(file, b"%d\n" % os.waitstatus_to_exitcode(status))
            os.close(file)


def _become(request: Request, files: list[int]) -> None:
    """Run the module as a new interpreter would."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    os.closerange(3, 1024)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    os.chdir(request.folder)
    os.umask(request.umask)
    sys.argv = list(request.argv)
    sys.orig_argv = [sys.executable, "-m", *request.argv]
    runpy.run_module(request.argv[0], run_name="__main__", alter_sys=True)


def main() -> None:
    """Import the service, then serve."""
    service, file = sys.argv[1], int(sys.argv[2])
    late = LATE if service in WITH_DATABASE else ()
    for module in ("services.start", f"services.{service}.wiring", *late):
        importlib.import_module(module)
    with socket.socket(fileno=file) as server:
        request = _serve(server)
    if request is not None:
        _become(*request)


if __name__ == "__main__":
    main()
