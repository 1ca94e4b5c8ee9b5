"""A service that is asked to end while it still starts ends, whatever its start waits for."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shared.bus.jetstream import JetStreamBus
from shared.runtime.child import Child, StartFailed
from shared.runtime.suite_file import BUS_URL_VARIABLE
from tests.kit.waiting import PATIENCE_SECONDS

STARTING = """
import asyncio
from contextlib import asynccontextmanager
from shared.runtime.process import run

@asynccontextmanager
async def opened(runtime):
    print("starting", flush=True)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()  # a cancellation that was lost
    yield

run("meter", lambda config: config.meter, opened)
"""


async def test_sigterm_ends_a_service_that_still_starts(
    tmp_path: Path, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUS_URL_VARIABLE, nats_url)
    (tmp_path / "spotinference.toml").write_text("")
    words = ("--config", str(tmp_path / "spotinference.toml"), "--data-dir", str(tmp_path))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTING, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.stdout.readline() == b"starting\n"
            process.send_signal(signal.SIGTERM)
            _, errors = await process.communicate()
        assert process.returncode == 0, errors
        assert b"Traceback" not in errors
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_service_that_gave_up_names_the_database_that_it_waited_for(
    tmp_path: Path, bus: JetStreamBus, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUS_URL_VARIABLE, nats_url)
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "spotinference.toml").write_text(f'[database]\nurl = "postgresql://user:secret@{where}/ledger"\n')
        patience, error = 1.0, ""
        while where not in error and patience < PATIENCE_SECONDS:  # until it comes as far as that
            patience *= 2
            meter = Child(
                "meter",
                ["--config", str(tmp_path / "spotinference.toml"), "--data-dir", str(tmp_path)],
                tmp_path / "meter.log",
                lambda _running: None,
                theirs.fileno(),
                stop_s=PATIENCE_SECONDS,
                report=lambda _text: None,
                start_s=patience,
            )
            with pytest.raises(StartFailed) as failure:
                await meter.start()
            error = str(failure.value)
    database = rf"(waiting for )?the database postgresql\S*://user@{where}/ledger.*"
    assert re.fullmatch(rf"meter: not ready: {database}: gave up after \d+ s: see .*", error), error
