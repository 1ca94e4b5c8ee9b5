"""The description of the gateway's API, served at `/openapi.json`. What it says of errors is their table's.

Requests are described as loosely as engines take them: only what the gateway itself reads has a type. It names no
models: which there are, a key is told by `GET /v1/models`.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from services.gateway.core import errors
from services.gateway.core.endpoints import ENDPOINTS, HEALTH, MODEL, PAGES, Endpoint, Page
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
    "OpenAI's API before engines that sleep. `HEAD` is answered wherever `GET` is. A doubled or trailing slash is the "
    "same path. Scripts of pages from the configuration's `cors_origins` may use the API."
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

_HEADERS: Json = {
    "x-request-id": {
        "description": "Ours, a UUIDv7, also the id of the usage event.",
        "required": True,
        "schema": {
            "type": "string",
            "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
        },
    },
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1, "maximum": 60}},
    "x-should-retry": {"description": "SDKs obey it.", "schema": {"enum": ["true", "false"]}},
    "WWW-Authenticate": {"description": "The scheme of `Authorization`.", "schema": {"const": "Bearer"}},
    "Allow": {"description": "The methods of the path.", "schema": {"type": "string"}},
}
_LIMIT_HEADERS: Json = {
    f"x-ratelimit-{what}-{of}": {"description": "For a key that has limits.", "schema": {"type": "string"}}
    for what in ("limit", "remaining", "reset")
    for of in ("requests", "tokens")
}
_FLAG = {"type": ["boolean", "null"]}
_SCHEMAS: Json = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                },
            }
        },
    },
    "EngineError": {"type": "object", "description": "An engine's own error, as it wrote it."},
    "Model": {
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer", "description": "When the gateway read its configuration, Unix seconds."},
            "owned_by": {"type": "string"},
            "max_model_len": {
                "type": "integer",
                "minimum": 1,
                "description": "The longest context in tokens, where an engine has told it.",
            },
        },
    },
    "Health": {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"enum": ["ok", "draining", "not ready"]}},
    },
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        },
    },
    "Request": {
        "type": "object",
        "required": ["model"],
        "properties": {
            "model": {"type": "string", "minLength": 1},
            "stream": _FLAG,
            "stream_options": {
                "type": ["object", "null"],
                "properties": {"include_usage": _FLAG, "continuous_usage_stats": _FLAG},
            },
        },
    },
}
_WAKE_TIMEOUT: Json = {
    "name": "X-Wake-Timeout",
    "in": "header",
    "description": "Seconds to wait for a machine that sleeps, instead of 10 minutes; 0 asks for the wake alone.",
    "schema": {"type": "number", "minimum": 0},
}
_MODEL_NAME: Json = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
    "description": "A `/` in it may be written `%2F`.",
}


def document() -> bytes:
    """OpenAPI 3.1, as JSON."""
    paths = {endpoint.path: {"post": _inference(endpoint)} for endpoint in ENDPOINTS.values()}
    paths |= {page.path: {"get": _reading(page)} for page in PAGES.values()}
    told = {
        "openapi": "3.1.0",
        "info": {"title": "spotinference", "version": "1", "description": DESCRIPTION},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "headers": _HEADERS | _LIMIT_HEADERS,
            "schemas": _SCHEMAS,
            "responses": {error.code: _refusal([error], engine=False) for error in OF_NO_PATH}
            | {f"engine_{status}": refusal for status, refusal in _refusals(OF_AN_ENGINE, engine=True).items()},
        },
    }
    return msgspec.json.encode(told)


def _inference(endpoint: Endpoint) -> Json:
    input_field = {endpoint.input_field: {"description": "The engine's to judge."}}
    body = {"allOf": [_schema("Request"), {"properties": input_field}]}
    return {
        "operationId": endpoint.operation,
        "parameters": [_WAKE_TIMEOUT],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {
                "description": "The engine's answer; events where the body asks for a `stream`.",
                "headers": _headers("x-request-id", *_LIMIT_HEADERS),
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "text/event-stream": {},
                },
            },
            **{str(error.status): _ref("responses", f"engine_{error.status}") for error in OF_AN_ENGINE},
            "default": {
                "description": "Any other answer of the engine.",
                "headers": _headers("x-request-id", *_LIMIT_HEADERS),
            },
        },
    }


def _reading(page: Page) -> Json:
    content = {"application/json": {"schema": _schema(page.schema) if page.schema else {"type": "object"}}}
    answer = {"description": "As asked.", "headers": _headers("x-request-id"), "content": content}
    refusals = OF_A_MODEL if page is MODEL else WITH_KEY if page.needs_key else ANYWHERE
    operation: Json = {"operationId": page.operation, "responses": {"200": answer, **_refusals(refusals, engine=False)}}
    if page is HEALTH:
        operation["responses"]["503"] = answer | {"description": "It takes no new requests now."}
    if page is MODEL:
        operation["parameters"] = [_MODEL_NAME]
    return operation if page.needs_key else operation | {"security": []}


def _refusals(table: Iterable[ApiError], *, engine: bool) -> Json:
    by_status: dict[int, list[ApiError]] = {}
    for error in table:
        by_status.setdefault(error.status, []).append(error)
    return {str(status): _refusal(by_status[status], engine=engine) for status in sorted(by_status)}


def _refusal(table: list[ApiError], *, engine: bool) -> Json:
    """The answer for errors of one status. `engine`: one may answer with this status in words of its own."""
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


def _schema(name: str) -> Json:
    return _ref("schemas", name)


def _headers(*names: str) -> Json:
    return {name: _ref("headers", name) for name in names}


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}
