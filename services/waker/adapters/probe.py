"""Asks engines over HTTP whether they answer, and for one token. With no user's key, and counted in no usage event."""

from typing import Any

import aiohttp
import msgspec

from services.waker.ports import Answer

MAX_BODY_BYTES = 65_536
CODE_LENGTH = 200


class HttpProber:
    """A `Prober`. Every probe has a connection of its own: an old one would speak to an old engine."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), trust_env=False)

    async def close(self) -> None:
        await self._session.close()

    async def reach(self, endpoint: str, timeout: float) -> Answer:
        """Any answer below 500 will do: not every engine lists its models."""
        status, body = await self._ask("GET", f"{endpoint}/v1/models", None, timeout)
        if 0 < status < 500:
            return Answer(answered=True)
        return Answer(answered=False, code=_code(status, body))

    async def token(self, endpoint: str, model: str, timeout: float) -> Answer:
        request: dict[str, Any] = {"model": model, "prompt": "Hi", "max_tokens": 1}
        status, body = await self._ask("POST", f"{endpoint}/v1/completions", request, timeout)
        if status in (404, 405):
            chat = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
            status, body = await self._ask("POST", f"{endpoint}/v1/chat/completions", chat, timeout)
        if status != 200:
            return Answer(answered=False, code=_code(status, body))
        return _answer(body)

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None, timeout: float) -> tuple[int, bytes]:
        """Status and the beginning of the body; status 0: no answer, and the body says why."""
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self._session.request(method, url, json=body, timeout=limit, allow_redirects=False) as answer:
                return answer.status, await answer.content.read(MAX_BODY_BYTES)
        except TimeoutError:
            return 0, f"no answer within {timeout:.1f} s".encode()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return 0, (str(error) or type(error).__name__).encode()


def _answer(body: bytes) -> Answer:
    """An engine that says 200 and gives no choice has not answered."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Answer(answered=False, code="the answer is not JSON")
    if not isinstance(told, dict) or not told.get("choices"):
        return Answer(answered=False, code="the answer has no choices")
    usage = told.get("usage")
    tokens = usage.get("total_tokens", 0) if isinstance(usage, dict) else 0
    return Answer(answered=True, tokens=tokens if isinstance(tokens, int) and tokens > 0 else 0)


def _code(status: int, body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())[:CODE_LENGTH]
    return f"{status} {text}".rstrip() if status else text
