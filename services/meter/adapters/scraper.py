"""Reads engines' `/metrics`; what answers there may be anything."""

from collections.abc import Callable

import aiohttp

from services.meter.core.engine_counters import EngineCounters, parse
from services.meter.core.machine_audit import SKEW_SECONDS
from services.meter.ports import ScrapeFailed
from shared.engine_keys import no_key

PROCESS_HEADER = "Process-Start-Time-Unix"
"""From llama.cpp, which fills in a clock that starts with the host: it is only good for comparison."""
MAX_BYTES = 4 * 1024 * 1024
"""vLLM's page takes some 100 KB."""


class MetricsScraper:
    """The port `EngineScraper` over HTTP. Each read opens a connection: an old one would reach an old engine."""

    def __init__(self, timeout_s: float = SKEW_SECONDS, find_key: Callable[[str, str], str | None] = no_key) -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        limit = aiohttp.ClientTimeout(total=timeout_s)
        self._session = aiohttp.ClientSession(connector=connector, timeout=limit, trust_env=False)
        self._timeout_s = timeout_s
        self._find_key = find_key

    async def close(self) -> None:
        await self._session.close()

    async def read(self, endpoint: str, machine: str = "") -> EngineCounters:
        """Return the counters, or raise `ScrapeFailed`. Some engines require the machine's key here, too."""
        key = self._find_key(machine, endpoint)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with self._session.get(f"{endpoint}/metrics", headers=headers, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ScrapeFailed(f"{endpoint}/metrics answered {answer.status}")
                process = answer.headers.get(PROCESS_HEADER)
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise ScrapeFailed(f"{endpoint}/metrics has more than {MAX_BYTES} bytes")
        except TimeoutError:
            raise ScrapeFailed(f"{endpoint}/metrics did not answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ScrapeFailed(f"{endpoint}/metrics: {str(error) or type(error).__name__}") from error
        try:
            return parse(body.decode("utf-8", "replace"), process)
        except ValueError as error:
            raise ScrapeFailed(f"{endpoint}/metrics: {error}") from error
