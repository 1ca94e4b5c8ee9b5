"""Reads HTTP responses from outside, up to a limit."""

import aiohttp


async def read_limited(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """Return the body, cut off at `limit_bytes`. One `read(n)` would return only the first of its chunks."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= limit_bytes:
            break
    return bytes(body[:limit_bytes])
