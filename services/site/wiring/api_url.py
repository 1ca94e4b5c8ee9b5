"""Finds where the gateway of the same `up` listens, if it may listen on any port."""

import asyncio

from msgspec.structs import replace

from shared.config.sections import Config
from shared.runtime import suite_file
from shared.runtime.process import Runtime

WAIT_S = 45.0
"""For the gateway, which starts at the same time; slowly, on a busy host. Less than `up` waits for the site."""
POLL_S = 0.05


async def config_with_api_url(runtime: Runtime) -> Config:
    """Return the configuration with the gateway's address where it has none.

    With `[gateway] port = 0` only the running gateway knows its port, and `up` writes it into the suite file.
    """
    config = runtime.config
    if config.gateway.port or config.site.api_url:
        return config
    deadline = runtime.monotonic() + WAIT_S
    while (suite := await asyncio.to_thread(suite_file.read, runtime.data_dir)) is not None:
        if gateway := suite.services.get("gateway"):
            return replace(config, site=replace(config.site, api_url=gateway.url))
        if runtime.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_S)
    return config
