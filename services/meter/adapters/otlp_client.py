"""Sends OTLP over HTTP; what answers there may be anything, or never answer."""

import aiohttp

from services.meter.core.otlp import ExportResponse
from services.meter.ports import ExportFailed
from shared.messages.codec import Unreadable, decode

TIMEOUT_S = 10.0
"""OTLP's own default, from the connection to the end of the answer."""
MAX_ANSWER_BYTES = 65_536
RETRYABLE = frozenset({429, 502, 503, 504})
"""As OTLP says. Whatever else a collector refuses, it would refuse again."""


class OtlpClient:
    """The port `TelemetrySink`. `endpoint` is the base of the paths `/v1/traces` and `/v1/metrics`."""

    def __init__(self, endpoint: str, timeout_s: float = TIMEOUT_S) -> None:
        limit = aiohttp.ClientTimeout(total=timeout_s)
        self._endpoint = endpoint.rstrip("/")
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(timeout=limit, trust_env=False)

    async def close(self) -> None:
        await self._session.close()

    async def send(self, path: str, body: bytes) -> int:
        """Return how many spans the collector refused of a request that it took."""
        url = f"{self._endpoint}{path}"
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ExportFailed(f"{path} answered {answer.status}", can_retry=answer.status in RETRYABLE)
                return _refused(await _read(answer))
        except TimeoutError:
            raise ExportFailed(f"{path} did not answer within {self._timeout_s:g} s", can_retry=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ExportFailed(f"{path}: {str(error) or type(error).__name__}", can_retry=True) from error


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            return b""
    return bytes(body)


def _refused(body: bytes) -> int:
    try:
        partial = decode(body, ExportResponse).partial_success
        return 0 if partial is None else max(0, int(partial.rejected_spans))
    except (Unreadable, ValueError):
        return 0  # it took the request, whatever it says
