"""Asks engines over HTTP whether they listen, and for one token or one embedding.

A probe uses no user's key and makes no usage event.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from services.waker.ports import ProbeResult
from shared.engine_keys import no_key
from shared.http_body import read_limited
from shared.messages.codec import Unreadable, decode_any

MAX_BODY_BYTES = 1024 * 1024
"""An embedding of 8192 numbers takes 180 KB."""
CODE_LENGTH = 200
NAMES_SHOWN = 5
MAX_COUNT = 2**40
"""What an engine tells of tokens and lengths is below that, or senseless."""

KINDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 1}, "choices"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}, "choices"),
    ("/v1/embeddings", {"input": "Hi"}, "data"),
)
"""What a model may be for, tried in this order: the path, the least work there, and where the result stands."""
OTHER_KIND = frozenset({200, 400, 404, 405, 422, 501})
"""By these an engine says that its model is for something else (200: with an error for a body)."""
KEY_WANTED = frozenset({401, 403})


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came over HTTP. Status 0: no answer, and the body says why."""

    status: int
    body: bytes
    kind: str = ""
    host: bool = True
    """Something of the machine is there."""

    @property
    def code(self) -> str:
        text = " ".join(self.body[: 4 * CODE_LENGTH].decode("utf-8", "replace").split())[:CODE_LENGTH]
        if not self.status:
            return text
        hint = ": name the tier's `key_file`, or mend the key in it" if self.status in KEY_WANTED else ""
        return f"{self.status} {text}".rstrip() + hint

    @property
    def stranger(self) -> str:
        """What answers is a web server or a proxy's page, no engine."""
        if self.status < 500 and (self.kind == "text/html" or self.body.lstrip()[:1] == b"<"):
            return f"answers {self.status} with a web page: no engine listens there"
        if 300 <= self.status < 400:
            return f"answers {self.status}, a redirect: no engine listens there"
        return ""


class HttpProber:
    """A `Prober`. Every probe has a connection of its own: an old one would speak to an old engine.

    `find_key` gives the key that a machine's engine asks for at an endpoint.
    """

    def __init__(self, find_key: Callable[[str, str], str | None] = no_key) -> None:
        self._find_key = find_key
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), trust_env=False)

    async def close(self) -> None:
        await self._session.close()

    async def reach(
        self, machine: str, endpoint: str, model: str, timeout: float, *, must_list: bool = False
    ) -> ProbeResult:
        """Any answer below 500 that is no web page will do: not every engine lists its models, or goes by its list."""
        reply = await self._ask(machine, endpoint, "/v1/models", None, timeout)
        if not 0 < reply.status < 500:
            return ProbeResult(answered=False, code=reply.code, host=reply.host)
        listed = _listed(reply.body) if reply.status == 200 else {}
        wrong = reply.stranger or (_other_model(listed, model) if must_list else "")
        return ProbeResult(answered=not wrong, wrong=wrong, host=True, max_model_len=_length(listed, model))

    async def work(self, machine: str, endpoint: str, model: str, timeout: float) -> ProbeResult:
        """One token, or one embedding where the engine makes no text."""
        deadline = time.monotonic() + timeout
        refused: list[tuple[str, Reply]] = []
        for path, least, result in KINDS:
            left = deadline - time.monotonic()
            reply = await self._ask(machine, endpoint, path, {"model": model, **least}, left)
            if reply.status == 200 and (answer := _result(reply.body, result)) is not None:
                return answer
            if reply.status not in OTHER_KIND:
                return ProbeResult(answered=False, code=reply.code, host=reply.host, wrong=reply.stranger)
            refused.append((path, reply))
        wrong = next((reply.stranger for _, reply in refused if reply.stranger), "")
        if not wrong:
            # It knows no such model, or is for something else: what it lists tells which.
            left = deadline - time.monotonic()
            wrong = (await self.reach(machine, endpoint, model, left, must_list=True)).wrong
        share = CODE_LENGTH // len(refused)
        code = "; ".join(f"{path}: {reply.code}"[:share] for path, reply in refused)
        return ProbeResult(answered=False, code=code, host=True, wrong=wrong)

    async def _ask(self, machine: str, endpoint: str, path: str, body: dict[str, Any] | None, timeout: float) -> Reply:
        """Send a GET without a body, else a POST. The reply is cut off at `MAX_BODY_BYTES`, and never shows our key."""
        key = self._find_key(machine, endpoint)
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        limit = aiohttp.ClientTimeout(total=max(timeout, 0.001))
        try:
            async with self._session.request(
                "GET" if body is None else "POST",
                f"{endpoint}{path}",
                json=body,
                headers=headers,
                timeout=limit,
                allow_redirects=False,
            ) as answer:
                shown = await read_limited(answer, MAX_BODY_BYTES)
                if key:
                    shown = shown.replace(key.encode(), b"[key]")
                return Reply(status=answer.status, body=shown, kind=answer.content_type)
        except TimeoutError:
            return Reply(status=0, body=f"no answer within {timeout:.1f} s".encode(), host=False)
        except aiohttp.ClientConnectorError as error:
            return Reply(status=0, body=str(error).encode(), host=isinstance(error.os_error, ConnectionRefusedError))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Reply(status=0, body=(str(error) or type(error).__name__).encode())


def _listed(body: bytes) -> dict[str, Any]:
    """The models that an engine lists, by their names; none where its answer is no list of models."""
    try:
        told = decode_any(body)
    except Unreadable:
        return {}
    models = told.get("data") if isinstance(told, dict) else None
    if not isinstance(models, list):
        return {}
    return {m["id"]: m for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)}


def _other_model(listed: Mapping[str, Any], model: str) -> str:
    """An engine that lists its models has to list ours."""
    if not model or not listed or model in listed:
        return ""
    names = ", ".join(list(listed)[:NAMES_SHOWN])
    return f"serves {names[:CODE_LENGTH]}, not {model}: mend `served_as` or the engine's command"


def _length(listed: Mapping[str, Any], model: str) -> int | None:
    """The longest context that an engine tells of a model, or of its only one."""
    entry = listed.get(model) or (next(iter(listed.values())) if len(listed) == 1 else {})
    return _count(entry.get("max_model_len"))


def _result(body: bytes, name: str) -> ProbeResult | None:
    """What a 200 gives under `name`; None where it gives nothing."""
    try:
        told = decode_any(body)
    except Unreadable:
        return None
    if not isinstance(told, dict) or not isinstance(told.get(name), list) or not told[name]:
        return None
    usage = told.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    return ProbeResult(answered=True, tokens=_count(tokens) or 0, host=True)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < MAX_COUNT else None
