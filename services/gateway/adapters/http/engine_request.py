"""The request to an engine. Of the client's headers it has only `Accept` and the trace context."""

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import hdrs

from services.gateway.core.endpoints import Endpoint
from services.gateway.core.request_body import LARGE_BYTES, ParsedRequest, Piece, body_for_engine
from shared.config.fleet import Model

TRACEPARENT = "traceparent"
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""W3C Trace Context, level 1 and what a later version may append."""


def engine_request(
    origin: str,
    endpoint: Endpoint,
    body: ParsedRequest,
    model: Model,
    *,
    headers: Mapping[str, str],
    request_id: str,
    key: str | None = None,
) -> list[Piece]:
    """Return head and body as pieces to write one after the other. `key` is the engine's; the client's is never
    sent."""
    pieces = body_for_engine(body, served_as=model.served_as, usage_options=endpoint.takes_stream_options)
    size = sum(map(len, pieces))
    head = b"%bAccept: %b\r\nX-Request-Id: %b\r\n%bContent-Length: %d\r\n\r\n" % (
        _begin(origin, endpoint.path, key),
        _bytes(headers.get(hdrs.ACCEPT, "*/*")),
        request_id.encode("ascii"),
        _trace(headers) if TRACEPARENT in headers else b"",
        size,
    )
    return [head, *pieces] if size > LARGE_BYTES else [b"".join((head, *pieces))]


def _trace(headers: Mapping[str, str]) -> bytes:
    parent = headers[TRACEPARENT]
    if not _TRACEPARENT.fullmatch(parent):
        return b""
    state = headers.get("tracestate")
    return b"Traceparent: %b\r\n" % _bytes(parent) + (b"Tracestate: %b\r\n" % _bytes(state) if state else b"")


def _bytes(value: str) -> bytes:
    """Return a header's value as it arrived."""
    return value.encode("utf-8", "surrogateescape")


@lru_cache(maxsize=1024)  # machines times paths
def _begin(origin: str, path: str, key: str | None) -> bytes:
    host = urlsplit(origin).netloc.rpartition("@")[2]
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", "Accept-Encoding: identity"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")
