"""Which response headers of an engine reach the client: not those of its connection or origin, nor the gateway's
own."""

import re
from collections.abc import Mapping

MAX_BYTES = 8 * 1024
"""Bytes of all forwarded headers: clients bound a response's head, some at 16 KiB."""

_DROPPED = frozenset({
    # of one connection
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
    # of the body's form, which may change on the way
    b"accept-ranges", b"content-encoding", b"content-length", b"content-md5", b"content-range", b"digest", b"etag",
    # ours
    b"content-type", b"date", b"server", b"x-request-id", b"www-authenticate",
    # of the engine as an origin, which clients do not know
    b"access-control-allow-credentials", b"access-control-allow-headers", b"access-control-allow-methods",
    b"access-control-allow-origin", b"access-control-expose-headers", b"access-control-max-age", b"alt-svc",
    b"clear-site-data", b"content-location", b"location", b"nel", b"report-to", b"set-cookie", b"set-cookie2",
    b"strict-transport-security", b"via", b"x-powered-by",
})  # fmt: skip
_OF_STREAMS = frozenset({b"cache-control", b"x-accel-buffering"})
"""Set by the gateway for streams, so that proxies pass events on at once."""
_LIMITS = b"x-ratelimit-"
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TYPE = re.compile(rb"[\t\x20-\x7e]{1,1024}")


def forwarded_headers(headers: Mapping[bytes, bytes], *, stream: bool) -> bytes:
    """Return the header lines for the client, Content-Type first. Names in `headers` are in lower case."""
    default = b"text/event-stream; charset=utf-8" if stream else b"application/json"
    content_type = headers.get(b"content-type", default)
    lines = [b"Content-Type: %b\r\n" % (content_type if _TYPE.fullmatch(content_type) else default)]
    of_connection = {name.strip().lower() for name in headers.get(b"connection", b"").split(b",")}
    left = MAX_BYTES - len(lines[0])
    for name, value in headers.items():
        dropped = (
            name in _DROPPED or name in of_connection or name.startswith(_LIMITS) or (stream and name in _OF_STREAMS)
        )
        if dropped or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            continue
        line = b"%b: %b\r\n" % (name, value)
        left -= len(line)
        if left >= 0:
            lines.append(line)
    if stream:
        lines.append(b"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n")
    return b"".join(lines)
