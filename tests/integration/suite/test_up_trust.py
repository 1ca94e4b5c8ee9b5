"""`up` among others: nobody has to read its output, nobody gets into its bus, and each child has its own secrets."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from shared.bus.jetstream import connect
from shared.bus.permissions import ROLES
from shared.config.sections import Config
from shared.runtime import suite_file
from shared.runtime.suite_file import Suite
from tests.kit.up import alive, processes_of
from tests.kit.waiting import PATIENCE_SECONDS, until

SERVICES = {"bus", "site", "gateway", "waker", "meter", "billing"}
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "secret-of-aws",
    "HYPERSTACK_API_KEY_FILE": "/secret-of-hyperstack",
    "PGPASSWORD": "secret-of-the-database",
}


def full_pipe() -> tuple[int, int]:
    """Its reader and its writer; nobody reads, and it takes no more."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    return reader, writer


@asynccontextmanager
async def unread(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A suite whose output nobody reads, from its first line on."""
    (folder / "spotinference.toml").write_text(
        '[gateway]\nport = 0\nmetrics_host = "127.0.0.2"\nworkers = 2\n[site]\nport = 0\n', "utf-8"
    )
    options = ("--config", str(folder / "spotinference.toml"), "--data-dir", str(folder / "data"))
    pipes = [full_pipe(), full_pipe()]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "spotinference", "up", *options),
        stdin=subprocess.DEVNULL,
        stdout=pipes[0][1],
        stderr=pipes[1][1],
        env=os.environ | SECRETS,
        start_new_session=True,
        umask=0,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        for descriptor in (*pipes[0], *pipes[1]):
            os.close(descriptor)
        await until(lambda: asyncio.sleep(0, processes_of(folder)), lambda left: left == [])


async def running(folder: Path) -> Suite | None:
    return suite_file.read(folder / "data")


async def restarted(folder: Path, service: str, before: int) -> Suite:
    result = await until(
        lambda: running(folder), lambda seen: seen is not None and seen.services[service].pid != before
    )
    assert result is not None
    return result


async def listens(url: str, host: str) -> bool:
    """Whether the URL's service answers at its port on this address."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://{host}:{urlsplit(url).port}/readyz") as response:
                return response.status == 200 and urlsplit(url).hostname == host
        except aiohttp.ClientConnectionError:
            return False


def secrets_of(process: int) -> set[str]:
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return {line.partition(b"=")[0].decode() for line in variables} & set(SECRETS)


def open_to_others(folder: Path) -> list[Path]:
    """What another user could read, write or enter if it could enter the folder."""
    paths = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # replaced meanwhile
            if path.stat().st_mode & 0o077:
                paths.append(path)
    return paths


async def test_nobody_reads_it_and_nobody_gets_in(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    async with unread(tmp_path) as process:
        result = await until(
            lambda: running(tmp_path), lambda seen: seen is not None and set(seen.services) == SERVICES
        )
        assert result is not None
        # Nobody reads, and it supervises on.
        for service in ("meter", "bus"):
            before = result.services[service].pid
            os.kill(before, signal.SIGKILL)
            result = await restarted(tmp_path, service, before)

        # Metrics are where `metrics_host` says, and nowhere else.
        gateway = result.services["gateway"]
        assert gateway.url.startswith("http://127.0.0.1:")
        assert await listens(str(gateway.metrics_url), "127.0.0.2")
        assert not await listens(str(gateway.metrics_url), "127.0.0.1")

        # Each child has the secrets that it uses.
        assert {name: secrets_of(service.pid) for name, service in result.services.items()} == {
            "bus": set(),
            "gateway": set(),
            "site": {"PGPASSWORD"},
            "meter": {"PGPASSWORD"},
            "billing": set(SECRETS),
            "waker": {"AWS_SECRET_ACCESS_KEY", "HYPERSTACK_API_KEY_FILE"},
        }

        # The bus asks for a key. Each user's is in one file of its own, which only its owner may read.
        await no_guess_leads_in(result.services["bus"].url)
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        for role in set(ROLES) - {"machine"}:
            access = suite_file.bus_access(Config(), tmp_path / "data", role)
            async with connect(access, name="test", wait=PATIENCE_SECONDS) as bus:
                assert bus.connected
            seed = access.seed()
            holders = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and holds(path, seed)]
            assert holders == [tmp_path / "data" / "bus" / "users" / f"{role}.nk"]
            assert holders[0].stat().st_mode & 0o777 == 0o600
            for child in (process.pid, *(service.pid for service in result.services.values())):
                assert not any(holds(Path(f"/proc/{child}/{file}"), seed) for file in ("cmdline", "environ"))

        assert open_to_others(tmp_path / "data") == []
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.wait() == 0
        assert not any(alive(service.pid) for service in result.services.values())


async def no_guess_leads_in(url: str) -> None:
    parts = urlsplit(url)
    for login in ("{}", '{"user":"gateway","pass":"guess"}', f'{{"nkey":"U{"A" * 55}","sig":"AAAA"}}'):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"CONNECT {login}\r\nPING\r\n".encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert b"-ERR 'Authorization Violation'" in await reader.read()
        writer.close()
        await writer.wait_closed()


def holds(path: Path, secret: str) -> bool:
    return secret.encode() in path.read_bytes()
