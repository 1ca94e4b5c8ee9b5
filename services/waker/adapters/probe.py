"""Probes engines over HTTP: whether they listen, produce one token or one embedding, and run requests.

A probe uses no user's key and causes no usage event.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from services.waker.ports import ProbeResult, RequestCount
from shared.engine_keys import no_key
from shared.engine_metrics import running_requests
from shared.http_body import read_limited
from shared.messages.codec import Unreadable, decode_any

MAX_BODY_BYTES = 1024 * 1024
"""An embedding of 8192 numbers takes 180 KB, and vLLM's `/metrics` some 100 KB."""
CODE_LENGTH = 200
NAMES_SHOWN = 5
MAX_COUNT = 2**40
"""An engine's counts of tokens and lengths are below this, or they are nonsense."""

KINDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 1}, "choices"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}, "choices"),
    ("/v1/embeddings", {"input": "Hi"}, "data"),
)
"""What a model may be for, tried in this order: the path, the least work there, and the field of the result."""
OTHER_KIND = frozenset({200, 400, 404, 405, 422, 501})
"""Statuses of an engine whose model is for something else (200: with an error in the body)."""
KEY_REQUIRED = frozenset({401, 403})


@dataclass(frozen=True, kw_only=True)
class Response:
    """An HTTP response. Status 0: there was none, and the body says why."""

    status: int
    body: bytes
    content_type: str = ""
    is_host_up: bool = True
    """Something on the machine responded."""

    @property
    def code(self) -> str:
        text = " ".join(self.body[: 4 * CODE_LENGTH].decode("utf-8", "replace").split())[:CODE_LENGTH]
        if not self.status:
            return text
        hint = ": set the tier's `key_file`, or fix the key in it" if self.status in KEY_REQUIRED else ""
        return f"{self.status} {text}".rstrip() + hint

    @property
    def mismatch(self) -> str:
        """What responded if it is a web server or a proxy, and no engine."""
        if self.status < 500 and (self.content_type == "text/html" or self.body.lstrip()[:1] == b"<"):
            return f"answers {self.status} with a web page: no engine listens there"
        if 300 <= self.status < 400:
            return f"answers {self.status}, a redirect: no engine listens there"
        return ""


class HttpProber:
    """A `Prober`. Every probe uses a new connection: an old one would lead to an old engine.

    `find_key` returns the key that a machine's engine requires at an endpoint.
    """

    def __init__(self, find_key: Callable[[str, str], str | None] = no_key) -> None:
        self._find_key = find_key
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), trust_env=False)

    async def close(self) -> None:
        await self._session.close()

    async def reach(
        self, machine: str, endpoint: str, model: str, timeout_s: float, *, must_list: bool = False
    ) -> ProbeResult:
        """Accept any response below 500 but a web page: not every engine lists its models, or serves only those."""
        response = await self._request(machine, endpoint, "/v1/models", None, timeout_s)
        if not 0 < response.status < 500:
            return ProbeResult(answered=False, code=response.code, is_host_up=response.is_host_up)
        listed = _listed(response.body) if response.status == 200 else {}
        mismatch = response.mismatch or (_other_model(listed, model) if must_list else "")
        return ProbeResult(
            answered=not mismatch, mismatch=mismatch, is_host_up=True, max_model_len=_length(listed, model)
        )

    async def work(self, machine: str, endpoint: str, model: str, timeout_s: float) -> ProbeResult:
        """Request one token, or one embedding if the engine makes no text."""
        deadline = time.monotonic() + timeout_s
        refused: list[tuple[str, Response]] = []
        for path, least, result in KINDS:
            left = deadline - time.monotonic()
            response = await self._request(machine, endpoint, path, {"model": model, **least}, left)
            if response.status == 200 and (answer := _result(response.body, result)) is not None:
                return answer
            if response.status not in OTHER_KIND:
                return ProbeResult(
                    answered=False, code=response.code, is_host_up=response.is_host_up, mismatch=response.mismatch
                )
            refused.append((path, response))
        mismatch = next((response.mismatch for _, response in refused if response.mismatch), "")
        if not mismatch:
            # It has no such model, or is for something else: its list of models shows which.
            left = deadline - time.monotonic()
            mismatch = (await self.reach(machine, endpoint, model, left, must_list=True)).mismatch
        share = CODE_LENGTH // len(refused)
        code = "; ".join(f"{path}: {response.code}"[:share] for path, response in refused)
        return ProbeResult(answered=False, code=code, is_host_up=True, mismatch=mismatch)

    async def count_requests(self, machine: str, endpoint: str, timeout_s: float) -> RequestCount:
        response = await self._request(machine, endpoint, "/metrics", None, timeout_s)
        if response.status != 200:
            # A gateway or proxy before the engine may be restarting; any other status is the engine's word.
            return RequestCount(running=None, answered=0 < response.status < 500, code=response.code)
        try:
            running = running_requests(response.body.decode("utf-8", "replace"))
        except ValueError as error:
            return RequestCount(running=None, answered=True, code=str(error)[:CODE_LENGTH])
        code = "" if running is not None else "its metrics do not say how many requests it runs"
        return RequestCount(running=running, answered=True, code=code)

    async def _request(
        self, machine: str, endpoint: str, path: str, body: dict[str, Any] | None, timeout_s: float
    ) -> Response:
        """Send a GET without a body, else a POST. The body is cut at `MAX_BODY_BYTES` and never shows our key."""
        key = self._find_key(machine, endpoint)
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        limit = aiohttp.ClientTimeout(total=max(timeout_s, 0.001))
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
                return Response(status=answer.status, body=shown, content_type=answer.content_type)
        except TimeoutError:
            return Response(status=0, body=f"no answer within {timeout_s:.1f} s".encode(), is_host_up=False)
        except aiohttp.ClientConnectorError as error:
            return Response(
                status=0, body=str(error).encode(), is_host_up=isinstance(error.os_error, ConnectionRefusedError)
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Response(status=0, body=(str(error) or type(error).__name__).encode())


def _listed(body: bytes) -> dict[str, Any]:
    """The models that an engine lists, by name; none if the body is no list of models."""
    try:
        listing = decode_any(body)
    except Unreadable:
        return {}
    models = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(models, list):
        return {}
    return {m["id"]: m for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)}


def _other_model(listed: Mapping[str, Any], model: str) -> str:
    """What the engine serves if it lists models and ours is not among them."""
    if not model or not listed or model in listed:
        return ""
    names = ", ".join(list(listed)[:NAMES_SHOWN])
    return f"serves {names[:CODE_LENGTH]}, not {model}: fix `served_as` or the engine's command"


def _length(listed: Mapping[str, Any], model: str) -> int | None:
    """The longest context that an engine reports for the model, or for its only one."""
    entry = listed.get(model) or (next(iter(listed.values())) if len(listed) == 1 else {})
    return _count(entry.get("max_model_len"))


def _result(body: bytes, field: str) -> ProbeResult | None:
    """The result of a 200 with a non-empty `field`; None without one."""
    try:
        result = decode_any(body)
    except Unreadable:
        return None
    if not isinstance(result, dict) or not isinstance(result.get(field), list) or not result[field]:
        return None
    usage = result.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    return ProbeResult(answered=True, tokens=_count(tokens) or 0, is_host_up=True)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < MAX_COUNT else None
