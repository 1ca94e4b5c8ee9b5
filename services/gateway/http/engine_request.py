"""The request that goes to an engine. Its head is ours but for what the client says of its trace and its taste."""

import re
from functools import lru_cache
from urllib.parse import urlsplit

from services.gateway.core.endpoints import Endpoint
from services.gateway.core.request_body import LARGE_BYTES, ParsedRequest, Piece, body_for_engine
from services.gateway.http.request import Request
from shared.config import Model

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""W3C Trace Context, level 1 and what a later version may append."""


def engine_request(
    origin: str, endpoint: Endpoint, request: Request, asked: ParsedRequest, model: Model, *, key: str | None = None
) -> list[Piece]:
    """Head and body, to be written one after the other. `key` is the engine's; the client's never goes there."""
    pieces = body_for_engine(asked, served_as=model.served_as, usage_options=endpoint.takes_stream_options)
    headers = request.headers
    traced = _trace(headers) if b"traceparent" in headers else b""
    size = sum(map(len, pieces))
    head = b"%bAccept: %b\r\nX-Request-Id: %b\r\n%bContent-Length: %d\r\n\r\n" % (
        _begin(origin, endpoint.path, key),
        headers.get(b"accept", b"*/*"),
        request.id.encode("ascii"),
        traced,
        size,
    )
    return [head, *pieces] if size > LARGE_BYTES else [b"".join((head, *pieces))]


def _trace(headers: dict[bytes, bytes]) -> bytes:
    parent = headers[b"traceparent"]
    if not _TRACEPARENT.fullmatch(parent):
        return b""
    state = headers.get(b"tracestate")
    return b"Traceparent: %b\r\n" % parent + (b"Tracestate: %b\r\n" % state if state else b"")


@lru_cache(maxsize=1024)  # machines times paths
def _begin(origin: str, path: str, key: str | None) -> bytes:
    host = urlsplit(origin).netloc.rpartition("@")[2]
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", "Accept-Encoding: identity"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")
