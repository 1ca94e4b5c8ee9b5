"""Answers over HTTP from outside, read as far as they may go."""

import aiohttp


async def read_limited(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body, cut off at `most` bytes. It may come in pieces, which one `read(n)` would not join."""
    data = bytearray()
    async for part in answer.content.iter_any():
        data += part
        if len(data) >= most:
            break
    return bytes(data[:most])
