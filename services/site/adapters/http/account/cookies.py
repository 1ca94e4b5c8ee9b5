"""The two cookies: a session's, and that of a sign-in under way."""

from aiohttp import web

from services.site.app.sign_in import PENDING_S

MAX_COOKIE = 200
"""Characters of a value that are looked up; ours have 43."""


class Cookies:
    """Names and flags follow from how browsers reach the site: `__Host-` cannot be set by a sub-domain."""

    def __init__(self, *, is_https: bool) -> None:
        self._is_https = is_https
        prefix = "__Host-" if is_https else ""
        self._session, self._sign_in = f"{prefix}session", f"{prefix}sign-in"

    def session(self, request: web.Request) -> str | None:
        return _read(request, self._session)

    def sign_in(self, request: web.Request) -> str | None:
        return _read(request, self._sign_in)

    def set_session(self, response: web.StreamResponse, value: str, length_s: float) -> None:
        self._set(response, self._session, value, int(length_s))

    def set_sign_in(self, response: web.StreamResponse, value: str) -> None:
        self._set(response, self._sign_in, value, int(PENDING_S))

    def clear_session(self, response: web.StreamResponse) -> None:
        self._set(response, self._session, "", 0)

    def clear_sign_in(self, response: web.StreamResponse) -> None:
        self._set(response, self._sign_in, "", 0)

    def _set(self, response: web.StreamResponse, name: str, value: str, length_s: int) -> None:
        response.set_cookie(
            name, value, max_age=length_s, path="/", httponly=True, secure=self._is_https, samesite="Lax"
        )


def _read(request: web.Request, name: str) -> str | None:
    value = request.cookies.get(name)
    return value if value and len(value) <= MAX_COOKIE else None
