"""The routes and what surrounds every request: its id, its key, errors in OpenAI's shape."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.door import Door
from services.gateway.http.exchange import Exchange
from shared.config import Model
from shared.ids import uuid7
from shared.messages.keys import KeyRecord

ENGINE_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
REQUEST_ID = web.RequestKey("request_id", str)

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(door: Door) -> web.Application:
    """The aiohttp application of the front door."""

    async def exchange(request: web.Request) -> web.StreamResponse:
        arrived = door.now()
        key = door.authorize(request.headers.get("Authorization"))
        task = asyncio.current_task()
        assert task is not None
        return await Exchange(
            door=door, request=request, key=key, request_id=request[REQUEST_ID], arrived=arrived, task=task
        ).run()

    async def models(request: web.Request) -> web.StreamResponse:
        key = door.authorize(request.headers.get("Authorization"))
        return web.json_response(
            {"object": "list", "data": [_model(m) for m in door.config.model if key.allows(m.name)]}
        )

    async def model(request: web.Request) -> web.StreamResponse:
        key = door.authorize(request.headers.get("Authorization"))
        return web.json_response(_model(_allowed(door, key, request.match_info["model"])))

    @web.middleware
    async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID] = uuid7(door.now())
        try:
            return await handler(request)
        except ApiError as error:
            door.metrics.refused.labels(error.code).inc()
            return _answer(error)
        except web.HTTPException as error:
            return _answer(_of_router(request, error))
        except ConnectionResetError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError, AssertionError, OSError):
            log.exception("a fault of ours", request_id=request[REQUEST_ID], path=request.path)
            return _answer(ApiError(500, "internal_error", "A fault of ours; it has been recorded.", "server_error"))

    async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["x-request-id"] = request.get(REQUEST_ID) or uuid7(door.now())
        response.headers["Server"] = "spotinference"

    # Bodies are bounded where they are read; aiohttp's own bound knows no exceptions by path.
    app = web.Application(middlewares=[surround], client_max_size=0)
    app.on_response_prepare.append(on_prepare)
    app.add_routes([web.post(path, exchange) for path in ENGINE_PATHS])
    app.add_routes([web.get("/v1/models", models), web.get("/v1/models/{model:.+}", model)])
    return app


def _model(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "spotinference"}


def _allowed(door: Door, key: KeyRecord, name: str) -> Model:
    model = door.config.models.get(name)
    if model is None:
        raise errors.model_not_found(name)
    if not key.allows(name):
        raise errors.model_not_allowed(name)
    return model


def _answer(error: ApiError) -> web.Response:
    headers = {"Content-Type": "application/json", **error.headers}
    return web.Response(status=error.status, body=error.body(), headers=headers)


def _of_router(request: web.Request, error: web.HTTPException) -> ApiError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return errors.method_not_allowed(request.method, ", ".join(sorted(error.allowed_methods)))
    if error.status == 413:
        return errors.request_too_large(0)
    if error.status < 500 and error.status != 404:
        return errors.invalid_request(None, error.reason)
    return errors.not_found(request.path)
