"""The OpenAPI description, served at `/openapi.json`. Its errors come from the error table.

Requests are described as loosely as engines accept them: only what the gateway itself reads has a type. Models are not
listed: a key sees its own with `GET /v1/models`.
"""

from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Any

import msgspec

from services.gateway.core import errors
from services.gateway.core.endpoints import ENDPOINTS, HEALTH, MODEL, RESOURCES, Endpoint, Resource
from services.gateway.core.errors import ApiError
from shared.messages.codec import decode_any

Json = dict[str, Any]

ANYWHERE = (
    errors.malformed("Expected CR after header value"),
    errors.request_timeout(30),
    errors.head_too_large(32 * 1024),
    errors.internal_error(),
)
DESCRIPTION = (
    "OpenAI's API in front of engines that sleep when idle. `HEAD` works wherever `GET` does. A doubled or trailing "
    "slash makes no difference. Scripts of pages from the configured `cors_origins` may use the API."
)
OF_NO_PATH = (errors.not_found("/chat/completions", "/v1/chat/completions"), errors.method_not_allowed("GET", "POST"))
WITH_KEY = (*ANYWHERE, errors.invalid_api_key())
OF_A_MODEL = (*WITH_KEY, errors.model_not_allowed("org/model"), errors.model_not_found("org/model"))
OF_AN_ENGINE = (
    *OF_A_MODEL,
    errors.invalid_json("Input data was truncated"),
    errors.invalid_request("stream", "`stream`: expected `bool | null`, got `str`."),
    errors.length_required(),
    errors.request_too_large(32 * 1024 * 1024),
    errors.unsupported_media_type("text/plain"),
    errors.unsupported_encoding("gzip"),
    errors.too_many_bytes(),
    errors.too_many_waiting(30),
    errors.rate_limited("requests per minute", 30),
    errors.insufficient_quota(1_000_000),
    errors.wake_cost_spent(Decimal("20.00")),
    errors.upstream_unreachable(),
    errors.engine_lost(),
    errors.no_upstream("org/model"),
    errors.budget_closed("budget_closed"),
    errors.budget_closed("billing_unobservable"),
    errors.budget_closed("billing_unobservable", is_starting=True),
    errors.outbox_full("no space left on device"),
    errors.waking(30, "142 s"),
    errors.waking(30, "?", should_retry=False),
    errors.leaving(),
    errors.wake_timeout(600),
)


def _object(*, optional: Collection[str] = (), **properties: Json) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def _header(description: str, **schema: object) -> Json:
    return {"description": description, "schema": schema}


def _schema(name: str) -> Json:
    return _ref("schemas", name)


def _headers(*names: str) -> Json:
    return {name: _ref("headers", name) for name in names}


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


_TEXT = {"type": "string"}
_NAME = {"type": "string", "minLength": 1}
_FLAG = {"type": ["boolean", "null"]}
_UUID7 = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_LIMIT_HEADERS = {
    f"x-ratelimit-{what}-{of}": _header("For a key that has limits.", type="string")
    for what in ("limit", "remaining", "reset")
    for of in ("requests", "tokens")
}
_HEADERS: Json = {
    "x-request-id": {
        "description": "The gateway's id of the request, a UUIDv7; also the id of its usage event.",
        "required": True,
        "schema": {"type": "string", "pattern": _UUID7},
    },
    "Retry-After": _header("Seconds.", type="integer", minimum=1, maximum=60),
    "x-should-retry": _header("Whether an SDK should retry.", enum=["true", "false"]),
    "WWW-Authenticate": _header("The scheme of `Authorization`.", const="Bearer"),
    "Allow": _header("The methods of the path.", type="string"),
    **_LIMIT_HEADERS,
}
_ERROR_TYPES = {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]}
_CREATED = {"type": "integer", "description": "When the gateway read its configuration, Unix seconds."}
_MODEL_LENGTH = {
    "type": "integer",
    "minimum": 1,
    "description": "The longest context in tokens, if an engine has reported it.",
}
_USAGE_OPTIONS = {"include_usage": _FLAG, "continuous_usage_stats": _FLAG}
_STREAM_OPTIONS = {"type": ["object", "null"], "properties": _USAGE_OPTIONS}
_SCHEMAS: Json = {
    "Error": _object(error=_object(message=_TEXT, type=_ERROR_TYPES, param={"type": ["string", "null"]}, code=_TEXT)),
    "EngineError": {"type": "object", "description": "An engine's own error, unchanged."},
    "Model": _object(
        id=_TEXT,
        object={"const": "model"},
        created=_CREATED,
        owned_by=_TEXT,
        max_model_len=_MODEL_LENGTH,
        optional=["max_model_len"],
    ),
    "Health": _object(status={"enum": ["ok", "draining", "not ready"]}),
    "Models": _object(object={"const": "list"}, data={"type": "array", "items": _schema("Model")}),
    "Request": _object(
        model=_NAME, stream=_FLAG, stream_options=_STREAM_OPTIONS, optional=["stream", "stream_options"]
    ),
}
_WAKE_TIMEOUT: Json = {
    "name": "X-Wake-Timeout",
    "in": "header",
    "description": "Seconds to wait for a sleeping machine, instead of 10 minutes; 0 wakes it without waiting.",
    "schema": {"type": "number", "minimum": 0},
}
_MODEL_NAME: Json = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": _NAME,
    "description": "A `/` may be written as `%2F`.",
}


def document() -> bytes:
    """Return the OpenAPI 3.1 document as JSON."""
    described = {
        "openapi": "3.1.0",
        "info": {"title": "spotinference", "version": "1", "description": DESCRIPTION},
        "security": [{"key": []}],
        "paths": {endpoint.path: {"post": _inference(endpoint)} for endpoint in ENDPOINTS.values()}
        | {resource.path: {"get": _resource(resource)} for resource in RESOURCES.values()},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "headers": _HEADERS,
            "schemas": _SCHEMAS,
            "responses": {error.code: _error_response([error], engine=False) for error in OF_NO_PATH}
            | {
                f"engine_{status}": response for status, response in _error_responses(OF_AN_ENGINE, engine=True).items()
            },
        },
    }
    return msgspec.json.encode(described)


def _inference(endpoint: Endpoint) -> Json:
    input_field = {endpoint.input_field: {"description": "Validated by the engine."}}
    body = {"allOf": [_schema("Request"), {"properties": input_field}]}
    headers = _headers("x-request-id", *_LIMIT_HEADERS)
    answer = {
        "description": "The engine's response; an event stream if the body asks for `stream`.",
        "headers": headers,
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
    return {
        "operationId": endpoint.operation,
        "parameters": [_WAKE_TIMEOUT],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": answer,
            **{str(error.status): _ref("responses", f"engine_{error.status}") for error in OF_AN_ENGINE},
            "default": {"description": "Any other response of the engine.", "headers": headers},
        },
    }


def _resource(resource: Resource) -> Json:
    content = {"application/json": {"schema": _schema(resource.schema) if resource.schema else {"type": "object"}}}
    answer = {"description": "Success.", "headers": _headers("x-request-id"), "content": content}
    table = OF_A_MODEL if resource is MODEL else WITH_KEY if resource.needs_key else ANYWHERE
    responses = {"200": answer, **_error_responses(table, engine=False)}
    operation: Json = {"operationId": resource.operation, "responses": responses}
    if resource is HEALTH:
        responses["503"] = answer | {"description": "The gateway accepts no new requests now."}
    if resource is MODEL:
        operation["parameters"] = [_MODEL_NAME]
    return operation if resource.needs_key else operation | {"security": []}


def _error_responses(table: Iterable[ApiError], *, engine: bool) -> Json:
    by_status: dict[int, list[ApiError]] = {}
    for error in table:
        by_status.setdefault(error.status, []).append(error)
    return {str(status): _error_response(by_status[status], engine=engine) for status in sorted(by_status)}


def _error_response(table: list[ApiError], *, engine: bool) -> Json:
    """Describe the errors of one status. `engine`: an engine may return this status with an error of its own."""
    codes = sorted({error.code for error in table})
    ours = {"allOf": [_schema("Error"), {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}]}
    schema = {"anyOf": [ours, _schema("EngineError")]} if engine else ours
    examples = {error.message: {"value": decode_any(error.body())} for error in table}
    named = {name for error in table for name in error.headers}
    always = {name for name in named if all(name in error.headers for error in table)}
    headers = _headers("x-request-id", *sorted(named - always), *(_LIMIT_HEADERS if engine else ()))
    headers |= {name: _HEADERS[name] | {"required": not engine} for name in sorted(always)}
    return {
        "description": ", ".join(f"`{code}`" for code in codes),
        "headers": headers,
        "content": {"application/json": {"schema": schema, "examples": examples}},
    }
