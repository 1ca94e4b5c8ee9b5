"""Identifies an engine by its own HTTP API."""

from typing import Any

import aiohttp

from shared.http_body import read_limited
from shared.messages.codec import Unreadable, decode_any

SECONDS = 5.0
MAX_BODY_BYTES = 1024 * 1024


async def identify_engine(session: aiohttp.ClientSession, origin: str) -> tuple[str, str]:
    """Return an engine's name and version; empty if it does not report them.

    vLLM reports its version at `/version`, llama.cpp its build at `/props`; both name themselves as a model's owner.
    """
    listing, server = await _get_json(session, f"{origin}/v1/models")
    models = listing.get("data")
    owner = models[0].get("owned_by", "") if isinstance(models, list) and models and isinstance(models[0], dict) else ""
    version, _ = await _get_json(session, f"{origin}/version")
    props, _ = await _get_json(session, f"{origin}/props") if not version else ({}, "")
    return str(owner or server), str(version.get("version") or props.get("build_info") or "")


async def _get_json(session: aiohttp.ClientSession, url: str) -> tuple[dict[str, Any], str]:
    """Return the JSON object at `url`, empty if there is none, and the `Server` header."""
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    try:
        async with session.get(url, timeout=timeout, allow_redirects=False) as response:
            body, server = await read_limited(response, MAX_BODY_BYTES), response.headers.get("Server", "")
            value = decode_any(body) if response.status == 200 else {}
    except (aiohttp.ClientError, OSError, TimeoutError, Unreadable):
        return {}, ""
    return (value if isinstance(value, dict) else {}), server
