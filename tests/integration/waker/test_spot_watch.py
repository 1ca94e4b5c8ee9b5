"""A spot machine learns from its metadata service that EC2 takes it back, and tells the waker."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.messages.machine import MachineNotice
from shared.messages.waker import ProviderCall
from spotinference.spot_watch.metadata import Metadata, MetadataError
from tests.integration.waker.conftest import Cluster, ClusterBuilder
from tests.kit.metadata_service import MetadataService, metadata_service
from tests.kit.ports import free_port
from tests.kit.waiting import PATIENCE_SECONDS, until


@pytest.fixture
async def service() -> AsyncIterator[MetadataService]:
    async with metadata_service() as running:
        yield running


def _action(seconds: float, action: str = "stop") -> bytes:
    at = datetime.fromtimestamp(int(time.time() + seconds), UTC)
    return json.dumps({"action": action, "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()


@asynccontextmanager
async def _watching(cluster: Cluster, service: MetadataService) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "spotinference", "spot-watch", "m1", "--metadata-url", service.url),
        *("--config", str(cluster.config)),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HTTP_PROXY": "http://127.0.0.1:1"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_machine_drains_when_its_metadata_service_has_a_notice(
    build_cluster: ClusterBuilder, service: MetadataService
) -> None:
    cluster = await build_cluster()
    await cluster.waker()
    await cluster.reaches("asleep")
    await cluster.want()
    await cluster.reaches("ready")
    async with _watching(cluster, service) as process:
        await until(lambda: asyncio.sleep(0, service.requests), bool)
        assert await cluster.path() == ["asleep", "waking", "ready"]
        service.action = _action(120)
        record = await cluster.reaches("asleep")
        assert (await cluster.path())[3:] == ["draining", "falling_asleep", "asleep"]
        assert record.reason.startswith("its provider reclaims it: stop at ")
        calls = [entry for entry in await cluster.journal() if isinstance(entry, ProviderCall)]
        assert [entry.code.split(" at ")[0] for entry in calls if entry.call == "notice"] == ["stop"]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            _, errors = await process.communicate()
        assert process.returncode == 0
        assert b"EC2 takes m1 back: stop in " in errors


async def test_expired_token_is_renewed(service: MetadataService) -> None:
    metadata = Metadata(service.url)
    assert await asyncio.to_thread(metadata.notice, "m1", 1.0) is None
    assert await asyncio.to_thread(metadata.notice, "m1", 1.0) is None
    assert len(service.tokens) == 1
    service.tokens.append("another")
    service.action = b'{"action": "terminate", "time": "2017-09-18T08:22:00Z"}'
    expected = MachineNotice(machine="m1", action="terminate", at=1505722920.0, observed_at=7.0)
    assert await asyncio.to_thread(metadata.notice, "m1", 7.0) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{}",
        b"[]",
        b'{"action":"none","time":"2017-09-18T08:22:00Z"}',
        b'{"action":"stop","time":"soon"}',
        b"<html>",
    ],
)
async def test_garbage_is_no_notice(service: MetadataService, body: bytes) -> None:
    service.action = body
    with pytest.raises(MetadataError):
        await asyncio.to_thread(Metadata(service.url).notice, "m1", 1.0)


async def test_error_names_the_service_that_does_not_answer(service: MetadataService) -> None:
    service.is_broken = True
    with pytest.raises(MetadataError, match="instance-action: 500"):
        await asyncio.to_thread(Metadata(service.url).notice, "m1", 1.0)
    nothing = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(MetadataError, match=nothing):
        await asyncio.to_thread(Metadata(nothing).notice, "m1", 1.0)


async def test_key_of_another_machine_is_rejected_at_the_start(tmp_path: Path) -> None:
    key = tmp_path / "gpu-2.nk"
    key.write_text("# user: gpu-2\nSUABC\n")
    config = tmp_path / "spotinference.toml"
    config.write_text(f'[bus]\nurl = "nats://127.0.0.1:1"\nnkey_file = "{key}"\n')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "spotinference", "spot-watch", "gpu-1", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"gpu-2.nk is the key of gpu-2: use that of gpu-1" in errors
