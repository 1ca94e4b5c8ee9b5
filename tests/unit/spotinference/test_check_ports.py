"""`check` tells our own services from strangers on their ports."""

import asyncio
import socket
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from shared.config.load import parse
from shared.runtime.health import Health, serve_health
from spotinference.check.local import check_ports

CONFIG = """
[gateway]
port = 0
[site]
port = 0
[waker]
metrics_port = {}
[[tier]]
name = "t"
provider = "static"
[[machine]]
id = "m"
tier = "t"
endpoint = "http://127.0.0.1:1"
"""


async def _check(port: int, data_dir: Path) -> list[tuple[str, str]]:
    diagnostics = await asyncio.to_thread(check_ports, parse(CONFIG.format(port), "test"), data_dir)
    return [(one.level, one.text) for one in diagnostics]


async def test_a_service_that_runs_by_itself_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # this host's own ports are not behind it
    async with serve_health(Health(), CollectorRegistry(), "127.0.0.1", 0) as port:
        assert await _check(port, tmp_path) == [("ok", "waker: it runs here, on its ports")]
    ((level, text),) = await _check(port, tmp_path)
    assert (level, text) == ("ok", f"waker.metrics_port: 127.0.0.1:{port} is free")


async def test_a_stranger_on_a_port_is_a_fault(tmp_path: Path) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with await asyncio.start_server(answer, sock=taken):
            ((level, text),) = await _check(taken.getsockname()[1], tmp_path)
    assert (level, "cannot listen on" in text) == ("wrong", True)
