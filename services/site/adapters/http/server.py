"""The site's HTTP server: routes in, every response with its headers, every failure as a page."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from services.site.adapters.http.connections import ClientConnection, Connections
from services.site.adapters.http.headers import add_headers
from services.site.adapters.rendering import Renderer
from services.site.metrics import Metrics
from shared.database import DATABASE_ERRORS, describe
from shared.errors import SpotinferenceError
from shared.runtime.listener import bind

log = structlog.get_logger()

MAX_FORM_BYTES = 16 * 1024
MAX_HEADER_BYTES = 32 * 1024
KEEPALIVE_SECONDS = 660.0
"""Longer than a balancer keeps an idle connection, or it sends a request into one that is being closed."""
PAGE = web.RequestKey("page", str)
"""What kind of page a request got, for the metrics."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""Characters that no database takes."""
PROBLEMS = {
    400: ("That cannot be read", "The address of this page cannot be read."),
    403: ("This is not allowed", "This page is not for you."),
    404: (
        "Page not found",
        "There is no such page. Its address may be mistyped, or it is of a day whose figures are not published.",
    ),
    405: ("This does not work here", "This page takes no such request."),
    413: ("That is too long", "That is more than a form may hold."),
    429: ("Too many requests", "Try again in a minute."),
    503: ("Not available now", "A service that this page needs does not answer. Try again in a moment."),
}
"""By status: the heading, and what it means where nobody says more."""
OTHER_PROBLEM = "Something went wrong", "This did not work. Try again in a moment."


@asynccontextmanager
async def serve_site(
    routes: Iterable[web.AbstractRouteDef],
    renderer: Renderer,
    metrics: Metrics,
    *,
    host: str,
    port: int,
    drain_s: float,
    is_https: bool,
    on_drain: Callable[[], None],
) -> AsyncIterator[int]:
    """Serve and yield the port. Raises `OSError` if it is taken.

    On exit `on_drain` ends the responses that would not end by themselves, and the others have `drain_s`.
    """
    app = web.Application(client_max_size=MAX_FORM_BYTES, middlewares=[_middleware(renderer, metrics)])

    async def prepare(_request: web.Request, response: web.StreamResponse) -> None:
        add_headers(response, is_https=is_https)

    async def drain(_app: web.Application) -> None:
        on_drain()

    app.on_response_prepare.append(prepare)
    app.on_shutdown.append(drain)
    app.add_routes(routes)
    runner, connections = web.AppRunner(app, shutdown_timeout=drain_s), Connections()
    await runner.setup()
    server = runner.server
    assert server is not None, "the runner is set up"

    def connect() -> ClientConnection:
        return ClientConnection(
            server,
            connections,
            is_https=is_https,
            access_log=None,
            auto_decompress=False,  # no browser compresses a form, and a small body may hold a gigabyte
            keepalive_timeout=KEEPALIVE_SECONDS,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    try:
        listener = await asyncio.get_running_loop().create_server(connect, sock=bind(host, port))
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()
    finally:
        await runner.cleanup()


def _middleware(renderer: Renderer, metrics: Metrics) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def finish(request: web.Request, handler: Handler) -> web.StreamResponse:
        if isinstance(request.protocol, ClientConnection):
            request.protocol.on_request()
        try:
            if _NO_TEXT.search(request.path):
                raise web.HTTPBadRequest
            response = await handler(request)
        except web.HTTPException as error:
            response = error if error.status < 400 else error_page(renderer, error.status)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except (SpotinferenceError, *DATABASE_ERRORS) as error:
            log.warning("page_failed", path=request.path, reason=describe(error))
            response = error_page(renderer, 503)
        except Exception:
            log.exception("page_crashed", path=request.path)
            response = error_page(renderer, 500)
        metrics.responses.labels(str(response.status), request.get(PAGE, "other")).inc()
        return response

    return finish


def error_page(renderer: Renderer, status: int, words: str | None = None) -> web.Response:
    """A page that says what is wrong, and nothing of how."""
    heading, meaning = PROBLEMS.get(status, OTHER_PROBLEM)
    text = renderer.render("error.html", path="", status=status, heading=heading, words=words or meaning)
    return web.Response(status=status, text=text, content_type="text/html")
