"""A bus over websockets, which a command reaches too: it loads the client without what only they need."""

import subprocess
import sys
from pathlib import Path

from tests.kit.nats_server import nats_binary
from tests.kit.ports import free_port
from tests.kit.waiting import PATIENCE_SECONDS

COMMAND = """
import asyncio, sys
import spotinference
from shared.bus.jetstream import connect

async def main():
    assert "aiohttp" not in sys.modules
    async with connect(sys.argv[1], name="test", wait=float(sys.argv[2])) as bus:
        print(bus.connected)

asyncio.run(main())
"""


def test_a_command_reaches_a_bus_over_websockets(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "server.conf"
    config.write_text(f'listen: "127.0.0.1:-1"\nwebsocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n')
    binary = nats_binary()
    assert binary is not None
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen([binary, "-c", config], stdout=log, stderr=log)
    try:
        words = [sys.executable, "-c", COMMAND, f"ws://127.0.0.1:{port}", str(PATIENCE_SECONDS)]
        result = subprocess.run(words, capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS, check=False)
    finally:
        server.kill()
        server.wait()
    assert result.stdout == "True\n", result.stderr
