"""The head of the request that goes to an engine: ours but for what the client says of its trace and its taste."""

import re
from functools import lru_cache
from urllib.parse import urlsplit

from services.gateway.http.request import Request

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""W3C Trace Context, level 1 and what a later version may append."""


def engine_head(origin: str, path: str, request: Request, length: int) -> bytes:
    """Everything before the body, which has `length` bytes."""
    headers = request.headers
    traced = _trace(headers) if b"traceparent" in headers else b""
    return b"%bAccept: %b\r\nX-Request-Id: %b\r\n%bContent-Length: %d\r\n\r\n" % (
        _begin(origin, path),
        headers.get(b"accept", b"*/*"),
        request.id.encode("ascii"),
        traced,
        length,
    )


def _trace(headers: dict[bytes, bytes]) -> bytes:
    parent = headers[b"traceparent"]
    if not _TRACEPARENT.fullmatch(parent):
        return b""
    state = headers.get(b"tracestate")
    return b"Traceparent: %b\r\n" % parent + (b"Tracestate: %b\r\n" % state if state else b"")


@lru_cache(maxsize=1024)  # machines times paths
def _begin(origin: str, path: str) -> bytes:
    host = urlsplit(origin).netloc.rpartition("@")[2]
    lines = (f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", "Accept-Encoding: identity")
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")
