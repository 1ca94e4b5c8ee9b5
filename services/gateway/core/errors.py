"""The error table: every error that the gateway itself returns, in OpenAI's shape."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Self

import msgspec

MAX_ECHO = 200
"""Characters of a client's input that an error message repeats."""
_NO_RETRY = {"x-should-retry": "false"}


@dataclass(eq=False)
class ApiError(Exception):
    """One error for one client. It never contains a prompt or a key."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    param: str | None = None

    def without_traceback(self) -> Self:
        """Forget where the error was raised; whoever keeps a caught error calls this.

        The frames of a traceback hold the request's body, and often the error: a cycle.
        """
        self.__traceback__ = self.__context__ = None
        return self

    @property
    def type(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def fields(self) -> bytes:
        """Return the response's header lines."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return b"Content-Type: application/json\r\n" + lines.encode("latin-1")

    def event(self) -> bytes:
        """Return the error as the last event of a stream whose status line has been sent."""
        return b"data: " + self.body() + b"\n\n"


def invalid_json(reason: str) -> ApiError:
    return ApiError(400, "invalid_json", f"The request body is not valid JSON: {reason}")


def invalid_request(param: str | None, reason: str) -> ApiError:
    return ApiError(400, "invalid_request", reason, param=param)


def malformed(reason: str) -> ApiError:
    """Reject what is not valid HTTP."""
    return ApiError(400, "invalid_request", f"This is not a well-formed HTTP request: {reason}.")


def invalid_api_key() -> ApiError:
    hint = "send `Authorization: Bearer sk-…` with a key that is neither revoked nor expired."
    return ApiError(401, "invalid_api_key", f"Missing or invalid API key: {hint}", {"WWW-Authenticate": "Bearer"})


def model_not_allowed(model: str) -> ApiError:
    return ApiError(
        403, "model_not_allowed", f"This API key may not use the model {model[:MAX_ECHO]!r}.", param="model"
    )


def model_not_found(model: str) -> ApiError:
    message = f"The model {model[:MAX_ECHO]!r} does not exist. List the available models with GET /v1/models."
    return ApiError(404, "model_not_found", message, param="model")


def not_found(path: str, suggestion: str | None = None) -> ApiError:
    """`suggestion` is an existing path that the client may have meant."""
    hint = f" Did you mean {suggestion}?" if suggestion else ""
    return ApiError(404, "not_found", f"Unknown path {path[:MAX_ECHO]!r}.{hint}")


def method_not_allowed(method: str, allowed: str) -> ApiError:
    message = f"{method} is not allowed for this path. Use {allowed}."
    return ApiError(405, "method_not_allowed", message, {"Allow": allowed})


def request_timeout(seconds: float) -> ApiError:
    return ApiError(408, "request_timeout", f"The request did not arrive completely within {seconds:g} s.")


def length_required() -> ApiError:
    return ApiError(
        411, "length_required", "The length of the body is unknown. Send Content-Length or Transfer-Encoding: chunked."
    )


def request_too_large(limit: int) -> ApiError:
    return ApiError(413, "request_too_large", f"The request body is larger than the limit of {limit} bytes.")


def head_too_large(limit: int) -> ApiError:
    message = f"The request headers are larger than {limit} bytes in total, or there are too many of them."
    return ApiError(431, "request_too_large", message)


def unsupported_media_type(content_type: str) -> ApiError:
    message = f"Content-Type {content_type[:MAX_ECHO]!r} is not supported. Send application/json."
    return ApiError(415, "unsupported_media_type", message)


def unsupported_encoding(coding: str) -> ApiError:
    message = f"Content-Encoding {coding[:MAX_ECHO]!r} is not supported. Send the body uncompressed."
    return ApiError(415, "unsupported_media_type", message)


def rate_limited(limit: str, retry_after: int) -> ApiError:
    """`limit` is in words, such as `60 requests per minute`; `retry_after` in seconds."""
    message = f"This API key has reached its limit of {limit}. Try again in {retry_after} s."
    return ApiError(429, "rate_limit_exceeded", message, {"Retry-After": str(retry_after)})


def insufficient_quota(limit: int) -> ApiError:
    message = (
        f"This API key has used its {limit} tokens for this month. The quota resets when the next month begins (UTC)."
    )
    return ApiError(429, "insufficient_quota", message, _NO_RETRY)


def wake_cost_spent(limit: Decimal) -> ApiError:
    message = (
        f"Waking machines for this API key has cost its daily limit of {limit} USD. The limit resets at midnight UTC. "
        "Machines that are awake still serve this key."
    )
    return ApiError(429, "insufficient_quota", message, _NO_RETRY)


def too_many_waiting(retry_after: int) -> ApiError:
    message = f"Too many requests are waiting for a machine to wake. Try again in {retry_after} s."
    return ApiError(429, "too_many_waiting", message, {"Retry-After": str(retry_after)})


def too_many_bytes() -> ApiError:
    message = (
        "Request bodies and unread responses fill this gateway's memory, or this API key's share of it. "
        "Read your pending responses, then try again."
    )
    return ApiError(429, "too_many_waiting", message, {"Retry-After": "5"})


def internal_error() -> ApiError:
    return ApiError(500, "internal_error", "Internal error. It has been logged; try again.")


def upstream_unreachable() -> ApiError:
    return ApiError(502, "upstream_unreachable", "The engine did not return a usable response. Try again.")


def engine_lost() -> ApiError:
    """For a stream, after its first byte."""
    return ApiError(502, "engine_lost", "The engine stopped in the middle of its response. Send the request again.")


def no_upstream(model: str) -> ApiError:
    return ApiError(503, "no_upstream", f"No machine is left that can serve the model {model!r}.", _NO_RETRY)


def budget_closed(reason: str, *, is_starting: bool = False) -> ApiError:
    """`reason` is the gate's. `is_starting`: billing may simply not have observed anything yet."""
    if reason == "billing_unobservable" and is_starting:
        message = "Today's spending is not known yet, so new requests are rejected. Try again in 5 s."
        return ApiError(503, reason, message, {"Retry-After": "5", "x-should-retry": "true"})
    if reason == "billing_unobservable":
        message = "Spending cannot be observed at the moment, so new requests are rejected."
        return ApiError(503, reason, message, _NO_RETRY)
    message = "The daily budget is spent. It resets at midnight UTC."
    if reason == "closed_by_operator":
        message = "The operator has closed the daily budget. It reopens at midnight UTC at the latest."
    return ApiError(503, "budget_closed", message, _NO_RETRY)


def outbox_full(reason: str) -> ApiError:
    """Reject new requests, since their usage would be lost."""
    message = f"Usage cannot be recorded at the moment ({reason}), so new requests are rejected."
    return ApiError(503, "outbox_full", message, {"Retry-After": "10"})


def waking(retry_after: int, eta: str, *, should_retry: bool = True) -> ApiError:
    """`should_retry`: whether an SDK may retry by itself; False for a caller who asked not to wait at all."""
    message = f"The model's machine is waking (ETA {eta}), and the request did not ask to wait longer."
    headers = {"Retry-After": str(retry_after)} | ({} if should_retry else _NO_RETRY)
    return ApiError(503, "waking", message, headers)


def leaving() -> ApiError:
    return ApiError(503, "waking", "This gateway is shutting down. Try again.", {"Retry-After": "1"})


def wake_timeout(cap: float) -> ApiError:
    return ApiError(504, "wake_timeout", f"No machine was ready within {cap:g} s. Try again.")
