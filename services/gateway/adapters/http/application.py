"""The aiohttp application, with routes from the table of endpoints."""

from functools import partial

from aiohttp import hdrs, web

from services.gateway.adapters.http.client_response import ClientResponse
from services.gateway.adapters.http.inference import Inference
from services.gateway.adapters.http.resources import Resources
from services.gateway.core.endpoints import ENDPOINTS
from services.gateway.core.paths import normalize


def make_application(inference: Inference, pages: Resources) -> web.Application:
    """Return an application that handles every path."""

    async def handle_other(request: web.Request) -> ClientResponse:
        endpoint = ENDPOINTS.get(normalize(request.raw_path)) if request.method == hdrs.METH_POST else None
        return await (pages.handle(request) if endpoint is None else inference.handle(endpoint, request))

    application = web.Application()
    for path, endpoint in ENDPOINTS.items():
        handle = partial(inference.handle, endpoint)
        application.router.add_route(hdrs.METH_POST, path, handle, expect_handler=_expect)
    application.router.add_route(hdrs.METH_ANY, "/{path:.*}", handle_other, expect_handler=_expect)
    return application


async def _expect(_request: web.Request) -> None:
    """Do nothing: the body is asked for once the request's key and headers are valid."""
