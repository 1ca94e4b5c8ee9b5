"""Asks engines over HTTP whether they answer, and for one token. With no user's key, and counted in no usage event."""

from typing import Any

import aiohttp

from services.waker.ports import Answer
from shared.messages.codec import Unreadable, decode_any

MAX_BODY_BYTES = 65_536
CODE_LENGTH = 200
NAMES_SHOWN = 5


class HttpProber:
    """A `Prober`. Every probe has a connection of its own: an old one would speak to an old engine."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), trust_env=False)

    async def close(self) -> None:
        await self._session.close()

    async def reach(self, endpoint: str, model: str, timeout: float) -> Answer:
        """Any answer below 500 that is no web page will do: not every engine lists its models, or goes by its list."""
        status, kind, body, host = await self._ask("GET", f"{endpoint}/v1/models", None, timeout)
        if not 0 < status < 500:
            return Answer(answered=False, code=_code(status, body), host=host)
        wrong = _stranger(status, kind, body) or (_other_model(body, model) if status == 200 else "")
        return Answer(answered=not wrong, wrong=wrong, host=True)

    async def token(self, endpoint: str, model: str, timeout: float) -> Answer:
        request: dict[str, Any] = {"model": model, "prompt": "Hi", "max_tokens": 1}
        status, kind, body, host = await self._ask("POST", f"{endpoint}/v1/completions", request, timeout)
        if status in (404, 405):
            chat = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
            status, kind, body, host = await self._ask("POST", f"{endpoint}/v1/chat/completions", chat, timeout)
        if status == 200:
            return _answer(body)
        wrong = _stranger(status, kind, body)
        if status == 404 and not wrong:
            # It knows no such model, or none of the two paths: what it lists tells which.
            wrong = (await self.reach(endpoint, model, timeout)).wrong
        return Answer(answered=False, code=_code(status, body), host=host, wrong=wrong)

    async def _ask(
        self, method: str, url: str, body: dict[str, Any] | None, timeout: float
    ) -> tuple[int, str, bytes, bool]:
        """Status, type and beginning of the body, whether the host is there; status 0: no answer, the body says why."""
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self._session.request(method, url, json=body, timeout=limit, allow_redirects=False) as answer:
                return answer.status, answer.content_type, await answer.content.read(MAX_BODY_BYTES), True
        except TimeoutError:
            return 0, "", f"no answer within {timeout:.1f} s".encode(), False
        except aiohttp.ClientConnectorError as error:
            return 0, "", str(error).encode(), isinstance(error.os_error, ConnectionRefusedError)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return 0, "", (str(error) or type(error).__name__).encode(), True


def _stranger(status: int, kind: str, body: bytes) -> str:
    """What answers is a web server or a proxy's page, no engine."""
    if status < 500 and (kind == "text/html" or body.lstrip()[:1] == b"<"):
        return f"answers {status} with a web page: no engine listens there"
    if 300 <= status < 400:
        return f"answers {status}, a redirect: no engine listens there"
    return ""


def _other_model(body: bytes, model: str) -> str:
    """An engine that lists its models has to list ours."""
    try:
        told = decode_any(body)
    except Unreadable:
        return ""
    listed = told.get("data") if isinstance(told, dict) else None
    names = [m["id"] for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)] if listed else []
    if not model or not names or model in names:
        return ""
    return f"serves {', '.join(names[:NAMES_SHOWN])}, not {model}: mend `served_as` or the engine's command"


def _answer(body: bytes) -> Answer:
    """An engine that says 200 and gives no choice has not answered."""
    try:
        told = decode_any(body)
    except Unreadable:
        return Answer(answered=False, code="the answer is not JSON", host=True)
    if not isinstance(told, dict) or not told.get("choices"):
        return Answer(answered=False, code="the answer has no choices", host=True)
    usage = told.get("usage")
    tokens = usage.get("total_tokens", 0) if isinstance(usage, dict) else 0
    return Answer(answered=True, tokens=tokens if isinstance(tokens, int) and tokens > 0 else 0, host=True)


def _code(status: int, body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())[:CODE_LENGTH]
    return f"{status} {text}".rstrip() if status else text
