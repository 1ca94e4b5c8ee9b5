"""The two cookies: a session's, and that of the sign-ins under way."""

from collections.abc import Sequence

from aiohttp import web

from services.site.core.pending_sign_ins import PENDING_S, PendingSignIn, read_pending, write_pending

MAX_SESSION = 200
"""Characters of a session's value that are looked up; ours have 43."""
MAX_PENDING = 2000


class Cookies:
    """Names and flags follow from how browsers reach the site: `__Host-` cannot be set by a sub-domain."""

    def __init__(self, *, is_https: bool) -> None:
        self._is_https = is_https
        prefix = "__Host-" if is_https else ""
        self._session, self._sign_in = f"{prefix}session", f"{prefix}sign-in"

    def session(self, request: web.Request) -> str | None:
        value = request.cookies.get(self._session, "")
        return value if 0 < len(value) <= MAX_SESSION else None

    def sign_ins(self, request: web.Request, now: float) -> list[PendingSignIn]:
        value = request.cookies.get(self._sign_in, "")
        return read_pending(value, now) if len(value) <= MAX_PENDING else []

    def set_session(self, response: web.StreamResponse, value: str, length_s: float) -> None:
        self._set(response, self._session, value, int(length_s))

    def set_sign_ins(self, response: web.StreamResponse, pending: Sequence[PendingSignIn]) -> None:
        """Keep these; without any, the cookie goes."""
        self._set(response, self._sign_in, write_pending(pending), PENDING_S if pending else 0)

    def clear_session(self, response: web.StreamResponse) -> None:
        self._set(response, self._session, "", 0)

    def _set(self, response: web.StreamResponse, name: str, value: str, length_s: int) -> None:
        response.set_cookie(
            name, value, max_age=length_s, path="/", httponly=True, secure=self._is_https, samesite="Lax"
        )
