"""The headers of every response, errors included."""

from aiohttp import web

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No inline style or script, nothing from elsewhere."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
HTTPS_ONLY = {"Strict-Transport-Security": "max-age=31536000"}


def add_headers(response: web.StreamResponse, *, is_https: bool) -> None:
    """Add what is missing: a page may have a policy of its own."""
    for name, value in (HEADERS | (HTTPS_ONLY if is_https else {})).items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
