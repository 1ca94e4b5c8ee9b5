"""Cross-origin requests: which pages of the web may read the gateway's answers in a browser."""

from collections.abc import Collection, Mapping

EXPOSED = (
    "x-request-id",
    "retry-after",
    "x-should-retry",
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
)
"""Headers of an answer that a page's script may read."""
PREFLIGHT_SECONDS = 600
"""How long a browser remembers what it was allowed."""
_PREFLIGHT = (
    "Access-Control-Allow-Methods: GET, HEAD, POST\r\n"
    # `*` does not cover Authorization; old browsers know only names.
    "Access-Control-Allow-Headers: Authorization, Content-Type, X-Wake-Timeout, *\r\n"
    f"Access-Control-Max-Age: {PREFLIGHT_SECONDS}\r\n"
).encode("ascii")


class Cors:
    """Header lines for the configured origins. Keys are sent by scripts, so credentials are never allowed."""

    def __init__(self, origins: Collection[str]) -> None:
        """`origins` are such as `https://chat.example.org`; `*` among them is any page."""
        exposed = f"Access-Control-Expose-Headers: {', '.join(EXPOSED)}\r\n"
        self._anyone = f"Access-Control-Allow-Origin: *\r\n{exposed}".encode("ascii") if "*" in origins else None
        self._fields = {
            origin.encode("latin-1"): f"Access-Control-Allow-Origin: {origin}\r\n{exposed}Vary: Origin\r\n".encode(
                "latin-1"
            )
            for origin in origins
        }

    def fields(self, origin: bytes | None) -> bytes:
        """Return the lines for an answer to a request with this `Origin`."""
        if self._anyone is not None:
            return self._anyone
        return self._fields.get(origin, b"Vary: Origin\r\n") if origin is not None else b"Vary: Origin\r\n"

    def preflight(self, method: str, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return further lines for the answer to a browser's question before the request proper; None: it is none."""
        if method != "OPTIONS" or b"origin" not in headers or b"access-control-request-method" not in headers:
            return None
        return _PREFLIGHT if self._anyone is not None or headers[b"origin"] in self._fields else b""
