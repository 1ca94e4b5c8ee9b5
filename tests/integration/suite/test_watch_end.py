"""A watch that ends by a fault ends its process, whether that serves already or still waits for its views."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from shared.runtime.suite_file import BUS_URL_VARIABLE
from tests.kit.waiting import PATIENCE_SECONDS

PROGRAM = """
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.bus.ports import Synced
from shared.bus.topology import KEYS
from shared.runtime.process import run

@asynccontextmanager
async def opened(runtime):
    def on_event(event):
        if {fails_at}:
            raise ZeroDivisionError("a defect")
    await runtime.bus.watch(KEYS, on_event)
    if {waits}:
        await asyncio.Event().wait()
    await runtime.bus.put(KEYS, "k", b"poison")
    yield

run("gateway", lambda config: config.gateway, opened)
"""


@pytest.mark.usefixtures("bus")
@pytest.mark.parametrize(
    ("fails_at", "waits"), [("isinstance(event, Synced)", True), ("getattr(event, 'value', None) == b'poison'", False)]
)
async def test_service_ends_with_status_1_and_logs_the_reason(
    nats_url: str, tmp_path: Path, fails_at: str, waits: bool
) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text("[gateway]\nport = 0\n")
    options = ("--config", str(config), "--data-dir", str(tmp_path))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM.format(fails_at=fails_at, waits=waits), *options),
        env={"PATH": "/usr/bin:/bin", BUS_URL_VARIABLE: nats_url, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1
    assert b'"watch_ended"' in errors
    assert b"ZeroDivisionError: a defect" in errors
