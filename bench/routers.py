"""Two Rust routers out of wheels, each in an environment of its own: what others' gateways cost on the same core.

Both run as they are installed: round robin over the one engine, warnings alone are logged, one worker thread since they
see one core. smg checks the key; vllm-router has no keys (its `--api-key` is for the engine).
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import child, free_port
from tests.clients.environments import ROOT, NotInstalled, install_python, prepared

START_SECONDS = 30.0
POLL_SECONDS = 0.05
LOG_LINES = 15
"""Of a router that does not start, in the reason for its absence."""


class RouterUnavailable(Exception):
    """A router cannot be measured here; its text says why."""


@dataclass(frozen=True)
class Router:
    """A program of a wheel, pinned in `requirements/routers`."""

    name: str
    words: tuple[str, ...]
    """After `python -m`; `{key}` is the key that clients send."""

    @property
    def pins(self) -> Path:
        return ROOT / "requirements" / "routers" / f"{self.name}.txt"

    def version(self) -> str:
        """As pip writes it: what is pinned is what runs."""
        pinned = re.search(rf"^{self.name}==(\S+)", self.pins.read_text("utf-8"), re.MULTILINE)
        assert pinned is not None, f"{self.pins} does not pin it"
        return pinned[1]

    def install(self) -> Path:
        """Return the folder with the pinned wheels, made at first use."""
        try:
            return prepared(self.name, self.pins, install_python)
        except (NotInstalled, OSError) as error:
            raise RouterUnavailable(f"it cannot be installed: {_reason(str(error))}") from error


ROUTERS = (
    Router("vllm-router", ("vllm_router.launch_router", "--log-level", "warning")),
    Router("smg", ("smg", "launch", "--log-level", "warn", "--api-key", "{key}", "--disable-tokenizer-autoload")),
)


@asynccontextmanager
async def running_router(
    router: Router, packages: Path, *, engine: int, key: str, log: Path
) -> AsyncIterator[tuple[int, int]]:
    """Yield its port and process id, once it has found the engine; `RouterUnavailable` when it does not."""
    port = free_port()
    words = (
        *(word.format(key=key) for word in router.words),
        *("--host", "127.0.0.1", "--port", str(port), "--prometheus-host", "127.0.0.1"),
        *("--prometheus-port", str(free_port()), "--policy", "round_robin"),
        *("--worker-urls", f"http://127.0.0.1:{engine}"),
    )
    # Without this environment's packages and the folder it is started in, nor a proxy for loopback.
    environment = {"PYTHONPATH": str(packages), "PATH": os.defpath}
    command = (sys.executable, "-S", "-P", "-m", *words)
    async with child(*command, log=log, environment=environment, output=False) as process:
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await _is_ready(port):
                    if process.returncode is not None:
                        raise RouterUnavailable(f"it has ended with status {process.returncode}: {_tail(log)}")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise RouterUnavailable(f"it is not ready after {START_SECONDS:g} s: {_tail(log)}") from None
        yield port, process.pid


async def _is_ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"GET /readiness HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    try:
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


def _reason(text: str) -> str:
    """Of pip's words the last that names an error, or the last at all."""
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])


def _tail(log: Path) -> str:
    return " / ".join(log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:])
