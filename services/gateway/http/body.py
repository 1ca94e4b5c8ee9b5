"""What a client sends, within bounds: the body and the headers that concern waiting."""

import asyncio
import math

from aiohttp import hdrs, web

from services.gateway.core import errors
from shared.config import GatewaySection

JSON_TYPES = frozenset({"application/json", "application/octet-stream"})
"""aiohttp reports the second for a request without any Content-Type."""


async def read_body(request: web.Request, limits: GatewaySection) -> bytes:
    """The whole body, or 408, 411, 413, 415."""
    if request.content_type not in JSON_TYPES or (
        request.content_type != "application/json" and hdrs.CONTENT_TYPE in request.headers
    ):
        raise errors.unsupported_media_type(request.content_type)
    chunked = "chunked" in request.headers.get(hdrs.TRANSFER_ENCODING, "").lower()
    if request.content_length is None and not chunked:
        raise errors.length_required()
    if (request.content_length or 0) > limits.max_body_bytes:
        raise errors.request_too_large(limits.max_body_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout):
            async for part in request.content.iter_any():
                size += len(part)
                if size > limits.max_body_bytes:
                    raise errors.request_too_large(limits.max_body_bytes)
                parts.append(part)
    except TimeoutError:
        raise errors.request_timeout(limits.body_timeout) from None
    return b"".join(parts)


def wake_limit(request: web.Request, cap: float) -> float | None:
    """`X-Wake-Timeout` in seconds, at most `cap`; None where it is not given, 400 where it is no number."""
    given = request.headers.get("X-Wake-Timeout")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        message = f"X-Wake-Timeout: expected seconds such as 30, or 0 for no waiting, got {given[:40]!r}."
        raise errors.invalid_request("X-Wake-Timeout", message)
    return min(seconds, cap)
