"""The site in this process, on a bus in memory, for tests of its pages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.site import wiring
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus
from shared.config.load import parse
from shared.runtime.process import Runtime

CONFIG = """
[site]
port = 0
"""


@asynccontextmanager
async def running_site(folder: Path, config: str = CONFIG, bus: Bus | None = None) -> AsyncIterator[str]:
    """Yields its origin."""
    runtime = Runtime(service="site", config=parse(config, "test"), data_dir=folder, bus=bus or MemoryBus(), port=None)
    async with wiring.service(runtime):
        assert runtime.url is not None
        yield runtime.url
