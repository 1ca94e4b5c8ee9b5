"""Cross-origin requests: which web pages may read the gateway's responses in a browser."""

from collections.abc import Collection, Mapping

_EXPOSED = "Access-Control-Expose-Headers: x-request-id, retry-after, x-should-retry, " + ", ".join(
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
)
"""The response headers that a page's script may read."""
_VARY = b"Vary: Origin\r\n"
PREFLIGHT_SECONDS = 600
"""How long a browser may cache the response to a preflight."""
_PREFLIGHT = (
    "Access-Control-Allow-Methods: GET, HEAD, POST\r\n"
    # `*` does not cover Authorization; old browsers know only names.
    "Access-Control-Allow-Headers: Authorization, Content-Type, X-Wake-Timeout, *\r\n"
    f"Access-Control-Max-Age: {PREFLIGHT_SECONDS}\r\n"
).encode("ascii")


class Cors:
    """Response headers for the configured origins. Scripts send keys themselves, so credentials are never allowed."""

    def __init__(self, origins: Collection[str]) -> None:
        """`origins` look like `https://chat.example.org`; `*` allows any page."""
        self._fields = {
            origin: f"Access-Control-Allow-Origin: {origin}\r\n{_EXPOSED}\r\n".encode("ascii") for origin in origins
        }
        self._any_origin = self._fields.get("*")

    def fields(self, origin: str | None) -> bytes:
        """Return the header lines for the response to a request with this `Origin`."""
        return self._any_origin or self._fields.get(origin or "", b"") + _VARY

    def preflight(self, method: str, headers: Mapping[str, str]) -> bytes | None:
        """Return the additional header lines for the response to a preflight; None for any other request.

        The names in `headers` are in lower case.
        """
        if method != "OPTIONS" or "origin" not in headers or "access-control-request-method" not in headers:
            return None
        return _PREFLIGHT if self._any_origin or headers["origin"] in self._fields else b""
