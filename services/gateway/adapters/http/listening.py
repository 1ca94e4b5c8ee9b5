"""Opens the port for clients."""

import asyncio
from collections.abc import Callable

from shared.errors import Misconfigured
from shared.runtime.listener import bind, origin
from shared.runtime.process import Runtime

BACKLOG = 4096
"""Connections that the kernel queues: the clients of a waking fleet connect all at once."""


async def listen(runtime: Runtime, make_connection: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """Serve each new connection by a protocol of its own. Raises `Misconfigured` if the port cannot be had."""
    settings = runtime.config.gateway
    port = settings.port if runtime.port is None else runtime.port
    try:
        listening = bind(settings.host, port, shared=runtime.worker is not None)
        server = await asyncio.get_running_loop().create_server(make_connection, sock=listening, backlog=BACKLOG)
    except OSError as error:
        reason = f"cannot listen on {settings.host}:{port}: {error.strerror}: choose another port, or 0 for a free one"
        raise Misconfigured(f"gateway.port: {reason}") from error
    runtime.url = origin(settings.host, listening.getsockname()[1])
    return server
