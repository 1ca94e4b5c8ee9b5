"""What an engine says that it is."""

from typing import Any

import aiohttp

from shared.http_body import read_limited
from shared.messages.codec import Unreadable, decode_any

SECONDS = 5.0
MAX_BODY_BYTES = 1024 * 1024


async def named(session: aiohttp.ClientSession, origin: str) -> tuple[str, str]:
    """An engine's name and version as it tells them; empty where it does not.

    vLLM tells its version at `/version`, llama.cpp its build at `/props`; both name themselves as a model's owner.
    """
    listing, server = await _asked(session, f"{origin}/v1/models")
    models = listing.get("data")
    owner = models[0].get("owned_by", "") if isinstance(models, list) and models and isinstance(models[0], dict) else ""
    version, _ = await _asked(session, f"{origin}/version")
    props, _ = await _asked(session, f"{origin}/props") if not version else ({}, "")
    return str(owner or server), str(version.get("version") or props.get("build_info") or "")


async def _asked(session: aiohttp.ClientSession, url: str) -> tuple[dict[str, Any], str]:
    """The JSON object there, empty if there is none, and the `Server` header."""
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    try:
        async with session.get(url, timeout=timeout, allow_redirects=False) as answer:
            body, server = await read_limited(answer, MAX_BODY_BYTES), answer.headers.get("Server", "")
            found = decode_any(body) if answer.status == 200 else {}
    except (aiohttp.ClientError, OSError, TimeoutError, Unreadable):
        return {}, ""
    return (found if isinstance(found, dict) else {}), server
