"""Reads engines' `/metrics`, whatever answers there."""

from collections.abc import Callable

import aiohttp

from services.meter.core.engine_counters import EngineCounters, parse
from services.meter.core.machine_audit import SKEW_SECONDS
from shared.engine_keys import no_key

PROCESS_HEADER = "Process-Start-Time-Unix"
"""Of llama.cpp, which fills in a clock that begins with the host: good for comparison alone."""
MAX_BYTES = 4 * 1024 * 1024
"""vLLM's page has some 100 KB."""


class ScrapeFailed(Exception):
    """No counters came; the text says why."""


class MetricsScraper:
    """Each look has a connection of its own: an old one would speak to an old engine."""

    def __init__(self, timeout: float = SKEW_SECONDS, find_key: Callable[[str, str], str | None] = no_key) -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        limit = aiohttp.ClientTimeout(total=timeout)
        self._session = aiohttp.ClientSession(connector=connector, timeout=limit, trust_env=False)
        self._timeout = timeout
        self._find_key = find_key

    async def close(self) -> None:
        await self._session.close()

    async def read(self, endpoint: str, machine: str = "") -> EngineCounters:
        """Return the counters, or raise `ScrapeFailed`. Some engines ask for the machine's key here, too."""
        key = self._find_key(machine, endpoint)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with self._session.get(f"{endpoint}/metrics", headers=headers, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ScrapeFailed(f"{endpoint}/metrics answers {answer.status}")
                process = answer.headers.get(PROCESS_HEADER)
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise ScrapeFailed(f"{endpoint}/metrics has more than {MAX_BYTES} bytes")
        except TimeoutError:
            raise ScrapeFailed(f"{endpoint}/metrics did not answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ScrapeFailed(f"{endpoint}/metrics: {str(error) or type(error).__name__}") from error
        try:
            return parse(body.decode("utf-8", "replace"), process)
        except ValueError as error:
            raise ScrapeFailed(f"{endpoint}/metrics: {error}") from error
