"""A service without its bus is alive, says what it lacks, waits for ever, and ends at once when it is asked to."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from shared.bus.jetstream import connect
from shared.bus.provision import provision
from shared.runtime.logs import LEVEL_VARIABLE
from shared.runtime.suite_file import BUS_URL_VARIABLE
from shared.tasks import cancel_and_wait
from tests.kit.bus_proxy import bus_proxy
from tests.kit.nats_server import NatsServer
from tests.kit.ports import free_port
from tests.kit.service import ServiceProcess
from tests.kit.waiting import PATIENCE_SECONDS, until

SERVICES = ("gateway", "waker", "meter", "billing", "site")
NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")


def first_process() -> Sequence[str]:
    """Return what makes a command PID 1 of a namespace; nothing where the system does not allow that."""
    allowed = shutil.which("unshare") and subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False)
    return NAMESPACE if allowed and allowed.returncode == 0 else ()


@asynccontextmanager
async def started(
    service: str, home: Path, bus_url: str, wrapper: Sequence[str] = (), more: Sequence[str] = ()
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process of the service, and the origin of its health pages, which it may not serve yet."""
    (home / "spotinference.toml").write_text("[gateway]\nport = 0\n")
    port = free_port()
    options = ("--config", str(home / "spotinference.toml"), "--data-dir", str(home), "--metrics-port", str(port))
    process = await asyncio.create_subprocess_exec(
        *(*wrapper, sys.executable, "-m", f"services.{service}", *options, *more),
        env={**os.environ, BUS_URL_VARIABLE: bus_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def read_page(url: str) -> tuple[int, str]:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as page:
            return page.status, await page.text()
    except aiohttp.ClientConnectionError:
        return 0, ""


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await process.wait()


@pytest.mark.parametrize("service", SERVICES)
async def test_service_without_bus_is_alive_and_not_ready(service: str, tmp_path: Path) -> None:
    async with started(service, tmp_path, f"nats://127.0.0.1:{free_port()}") as (process, origin):
        await until(lambda: read_page(f"{origin}/livez"), lambda answer: answer[0] == 200)
        status, page = await read_page(f"{origin}/readyz")
        assert (status, json.loads(page)["faults"]["bus"]) == (503, "not connected to the bus")
        _, metrics = await read_page(f"{origin}/metrics")
        assert "spot_bus_connected 0.0" in metrics
        assert 'spot_build_info{python="' in metrics
        assert "process_resident_memory_bytes" in metrics
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


async def test_workers_without_bus_are_alive_and_not_ready(nats_server: NatsServer, tmp_path: Path) -> None:
    await asyncio.to_thread(nats_server.stop)
    two = ("--workers", "2")
    async with started("gateway", tmp_path, nats_server.url, more=two) as (process, origin):
        await until(lambda: read_page(f"{origin}/livez"), lambda answer: answer[0] == 200)
        status, page = await read_page(f"{origin}/readyz")
        assert (status, json.loads(page)["faults"]["worker 1: starting"]) == (503, "starting")
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0
    async with started("gateway", tmp_path, nats_server.url, more=two) as (process, origin):
        await until(lambda: read_page(f"{origin}/livez"), lambda answer: answer[0] == 200)
        await asyncio.to_thread(nats_server.start)
        async with connect(nats_server.url, name="test", wait=PATIENCE_SECONDS) as bus:
            await provision(bus)
        await until(lambda: read_page(f"{origin}/readyz"), lambda answer: answer[0] == 200)
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


async def test_service_gets_ready_once_its_bus_has_started(nats_server: NatsServer, tmp_path: Path) -> None:
    await asyncio.to_thread(nats_server.stop)
    async with started("gateway", tmp_path, nats_server.url) as (process, origin):
        await until(lambda: read_page(f"{origin}/livez"), lambda answer: answer[0] == 200)
        await asyncio.to_thread(nats_server.start)
        async with connect(nats_server.url, name="test", wait=PATIENCE_SECONDS) as bus:
            await provision(bus)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert json.loads(await process.stdout.readline())["service"] == "gateway"
        assert (await read_page(f"{origin}/readyz"))[0] == 200
        assert "spot_bus_connected 1.0" in (await read_page(f"{origin}/metrics"))[1]
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


async def test_service_whose_bus_fails_during_its_start_starts_again(nats_url: str, tmp_path: Path) -> None:
    config = tmp_path / "spotinference.toml"
    async with bus_proxy(nats_url) as proxy, connect(nats_url, name="test", wait=PATIENCE_SECONDS) as bus:
        await provision(bus)
        config.write_text(f'[bus]\nurl = "{proxy.url}"\n[meter]\nmetrics_port = 0\n')
        proxy.hold_at = b"SUB meter.tokens "
        meter = ServiceProcess("meter", config, tmp_path)
        starting = asyncio.create_task(meter.start())
        try:
            await until(lambda: asyncio.to_thread(_read_text, meter.log), lambda text: "start_interrupted" in text)
            proxy.whole.set()
            proxy.cut()
            await starting
            assert await meter.stop() == 0
        finally:
            await cancel_and_wait([starting])
            if meter.process is not None and meter.process.returncode is None:
                await meter.kill9()


def _read_text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def test_sigterm_ends_a_first_process_that_waits_for_its_bus(tmp_path: Path) -> None:
    """As PID 1, as in a container, a process receives only the signals that it handles."""
    async with started("meter", tmp_path, f"nats://127.0.0.1:{free_port()}", first_process()) as (process, origin):
        await until(lambda: read_page(f"{origin}/livez"), lambda answer: answer[0] == 200)
        os.kill(_innermost(process.pid), signal.SIGTERM)
        assert await ended(process) == 0


def test_sigterm_ends_a_first_process_that_still_imports() -> None:
    script = "from services import start; import os, signal; os.kill(os.getpid(), signal.SIGTERM); os._exit(7)"
    done = subprocess.run([*first_process(), sys.executable, "-c", script], timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "start",
    [
        "from services import start; import services.meter.wiring, services.billing.wiring, services.site.wiring",
        "from spotinference.__main__ import main; main.get_command(None, 'check')",
    ],
    ids=["services", "command"],
)
def test_nothing_is_loaded_at_the_start_that_is_not_used(start: str) -> None:
    """Alembic only migrates, SQLite needs none of PostgreSQL, nobody uses the ORM, and logs show no colors."""
    script = f"""{start}
import sys, aiohttp.connector
unused = ("alembic", "sqlalchemy.orm", "sqlalchemy.dialects.postgresql", "asyncpg", "rich.traceback")
print([name for name in unused if name in sys.modules], aiohttp.connector._SSL_CONTEXT_VERIFIED.get_ca_certs())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=PATIENCE_SECONDS)
    assert done.stdout == b"[] []\n"


def _innermost(pid: int) -> int:
    """Return the process that `unshare` waits for, or `pid` itself."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return _innermost(int(children[0])) if children else pid


async def test_unknown_log_level_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, "loud")
    async with started("gateway", tmp_path, f"nats://127.0.0.1:{free_port()}") as (process, _):
        assert await ended(process) == 1


async def test_files_of_a_service_are_its_owners_alone_whatever_the_umask(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUS_URL_VARIABLE, nats_server.url)
    async with connect(nats_server.url, name="test", wait=PATIENCE_SECONDS) as bus:
        await provision(bus)
    (tmp_path / "spotinference.toml").touch()
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    meter = ServiceProcess("meter", tmp_path / "spotinference.toml", data_dir)
    before = os.umask(0)
    try:
        await meter.start()
    finally:
        os.umask(before)
    try:
        assert {path.name: path.stat().st_mode & 0o077 for path in data_dir.glob("ledger.sqlite*")} == {
            "ledger.sqlite": 0,
            "ledger.sqlite-shm": 0,
            "ledger.sqlite-wal": 0,
        }
    finally:
        assert await meter.stop() == 0


@pytest.mark.parametrize("service", ["meter", "waker"])
async def test_hangup_makes_a_service_that_waits_for_its_bus_read_its_configuration_again(
    service: str, nats_url: str, tmp_path: Path
) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text(f'[bus]\nurl = "nats://127.0.0.1:{free_port()}"\n')
    async with connect(nats_url, name="test", wait=PATIENCE_SECONDS) as bus:
        await provision(bus)
    waiting = ServiceProcess(service, config, tmp_path)
    starting = asyncio.create_task(waiting.start())
    try:
        await until(lambda: asyncio.to_thread(_read_text, waiting.log), lambda text: "bus_error_reported" in text)
        assert waiting.process is not None
        config.write_text("[[no")
        waiting.process.send_signal(signal.SIGHUP)
        await until(lambda: asyncio.to_thread(_read_text, waiting.log), lambda text: "config_reload_failed" in text)
        config.write_text(f'[bus]\nurl = "{nats_url}"\n')
        waiting.process.send_signal(signal.SIGHUP)
        await starting
        assert waiting.announced.pid == waiting.process.pid
        assert await waiting.stop() == 0
    finally:
        await cancel_and_wait([starting])
        if waiting.process is not None and waiting.process.returncode is None:
            await waiting.kill9()
