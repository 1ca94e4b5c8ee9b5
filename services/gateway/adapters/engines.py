"""The way to an engine: one HTTP client for all machines, with a connection kept shorter than engines keep theirs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from shared.config import GatewaySection

KEEPALIVE_SECONDS = 4.0
"""vLLM closes an idle connection after 5 s; ours is gone before."""


class EngineUnreachable(Exception):
    """No answer began. `written`: the request may have reached the engine."""

    def __init__(self, reason: str, *, written: bool) -> None:
        super().__init__(reason)
        self.written = written


class Engines:
    """Posts to engines. `answer` yields once the status line is there; leaving it early aborts the engine's work."""

    def __init__(self, config: GatewaySection) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            connect=config.connect_timeout,
            sock_connect=config.connect_timeout,
            sock_read=config.read_timeout,
        )
        self._kept = self._session(aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS))
        self._fresh = self._session(aiohttp.TCPConnector(limit=0, force_close=True))

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )

    @asynccontextmanager
    async def answer(self, url: str, body: bytes, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The engine's answer; `EngineUnreachable` before it begins."""
        response = await self._post(url, body, headers)
        try:
            yield response
        finally:
            # Closing what was read to its end gives the connection back; anything else cuts it, and the engine stops.
            response.release() if response.content.at_eof() else response.close()

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> aiohttp.ClientResponse:
        try:
            try:
                return await self._kept.post(url, data=body, headers=headers, allow_redirects=False)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(error, aiohttp.ClientConnectorError):
                    raise
                # The engine closed a kept connection just as it was used; nothing of an answer came. Once more, anew.
                return await self._fresh.post(url, data=body, headers=headers, allow_redirects=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise EngineUnreachable(str(error), written=False) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineUnreachable(str(error) or type(error).__name__, written=True) from error

    async def close(self) -> None:
        await self._kept.close()
        await self._fresh.close()
