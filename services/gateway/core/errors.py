"""The error table: every error that the gateway itself answers with, in OpenAI's shape."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec

MAX_ECHO = 200
"""Characters of what a client sent that an error repeats."""
_NO_RETRY = {"x-should-retry": "false"}


@dataclass(eq=False)
class ApiError(Exception):
    """One row of the table, filled in. Never holds a prompt or a key."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    param: str | None = None

    @property
    def type(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def fields(self) -> bytes:
        """Return its header lines."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return b"Content-Type: application/json\r\n" + lines.encode("latin-1")

    def event(self) -> bytes:
        """Return the error as the last event of a stream whose status line has gone out."""
        return b"data: " + self.body() + b"\n\n"


def invalid_json(reason: str) -> ApiError:
    return ApiError(400, "invalid_json", f"The request body is not valid JSON: {reason}")


def invalid_request(param: str | None, reason: str) -> ApiError:
    return ApiError(400, "invalid_request", reason, param=param)


def malformed(reason: str) -> ApiError:
    """What came is not HTTP as it should be."""
    return ApiError(400, "invalid_request", f"This is not a well-formed HTTP request: {reason}.")


def invalid_api_key() -> ApiError:
    hint = "send `Authorization: Bearer sk-…` with a key that is neither revoked nor expired."
    return ApiError(401, "invalid_api_key", f"Missing or invalid API key: {hint}", {"WWW-Authenticate": "Bearer"})


def model_not_allowed(model: str) -> ApiError:
    return ApiError(403, "model_not_allowed", f"This key may not use the model {model[:MAX_ECHO]!r}.", param="model")


def model_not_found(model: str) -> ApiError:
    message = f"The model {model[:MAX_ECHO]!r} does not exist: GET /v1/models lists them."
    return ApiError(404, "model_not_found", message, param="model")


def not_found(path: str, suggestion: str | None = None) -> ApiError:
    """`suggestion` is a path that exists."""
    hint = f" Did you mean {suggestion}?" if suggestion else ""
    return ApiError(404, "not_found", f"There is nothing at {path[:MAX_ECHO]!r}.{hint}")


def method_not_allowed(method: str, allowed: str) -> ApiError:
    return ApiError(405, "method_not_allowed", f"{method} is not allowed here.", {"Allow": allowed})


def request_timeout(seconds: float) -> ApiError:
    return ApiError(408, "request_timeout", f"The request body did not arrive within {seconds:g} s.")


def length_required() -> ApiError:
    return ApiError(411, "length_required", "Send a body with Content-Length or Transfer-Encoding: chunked.")


def request_too_large(limit: int) -> ApiError:
    return ApiError(413, "request_too_large", f"The request body is larger than {limit} bytes.")


def head_too_large(limit: int) -> ApiError:
    return ApiError(431, "request_too_large", f"The request's head is larger than {limit} bytes or has too many lines.")


def unsupported_media_type(got: str) -> ApiError:
    return ApiError(415, "unsupported_media_type", f"Send Content-Type: application/json, not {got[:MAX_ECHO]!r}.")


def unsupported_encoding(coding: str) -> ApiError:
    message = f"Send the body as it is, without Content-Encoding: {coding[:MAX_ECHO]!r} is not understood."
    return ApiError(415, "unsupported_media_type", message)


def rate_limited(limit: str, retry_after: int) -> ApiError:
    message = f"This key has reached its limit of {limit}; try again in {retry_after} s."
    return ApiError(429, "rate_limit_exceeded", message, {"Retry-After": str(retry_after)})


def insufficient_quota(limit: int) -> ApiError:
    message = f"This key has used its {limit} tokens of this month; they begin anew with the next month in UTC."
    return ApiError(429, "insufficient_quota", message, _NO_RETRY)


def wake_cost_spent(limit: Decimal) -> ApiError:
    message = (
        f"This key's wakes of sleeping machines have cost the {limit} USD that they may cost a day; they begin anew at "
        "midnight UTC. Machines that are awake serve it."
    )
    return ApiError(429, "insufficient_quota", message, _NO_RETRY)


def too_many_waiting(retry_after: int) -> ApiError:
    message = "Too many requests are waiting for a machine to wake."
    return ApiError(429, "too_many_waiting", message, {"Retry-After": str(retry_after)})


def too_many_bytes() -> ApiError:
    message = (
        "Request bodies and unread responses fill this gateway's memory, or your key's share of it: "
        "read what was answered, then try again."
    )
    return ApiError(429, "too_many_waiting", message, {"Retry-After": "5"})


def internal_error() -> ApiError:
    return ApiError(500, "internal_error", "A fault of ours; it has been recorded.")


def upstream_unreachable() -> ApiError:
    return ApiError(502, "upstream_unreachable", "The engine gave no answer that could be passed on.")


def engine_lost() -> ApiError:
    """Told in the stream, after the first byte."""
    return ApiError(502, "engine_lost", "The engine stopped in the middle of its answer.")


def no_upstream(model: str) -> ApiError:
    return ApiError(503, "no_upstream", f"No machine serves the model {model!r}.", _NO_RETRY)


def budget_closed(reason: str, *, is_starting: bool = False) -> ApiError:
    """`reason` is a gate's. `is_starting`: billing may just not have observed anything yet."""
    if reason == "billing_unobservable" and is_starting:
        message = "Spending has not been observed since this gateway started; try again in 5 s."
        return ApiError(503, reason, message, {"Retry-After": "5", "x-should-retry": "true"})
    if reason == "billing_unobservable":
        message = "Spending cannot be observed at the moment, so nothing new is started."
        return ApiError(503, reason, message, _NO_RETRY)
    message = "The daily budget is spent; it opens again at midnight UTC."
    if reason == "closed_by_operator":
        message = "The operator has closed the daily budget; it opens again at midnight UTC, or before."
    return ApiError(503, "budget_closed", message, _NO_RETRY)


def outbox_full(reason: str) -> ApiError:
    """Serving on would lose counts."""
    message = f"Usage cannot be recorded at the moment ({reason}), so nothing new is served."
    return ApiError(503, "outbox_full", message, {"Retry-After": "10"})


def waking(retry_after: int, eta: str, *, should_retry: bool = True) -> ApiError:
    """`should_retry`: an SDK may do so by itself; False for a caller who wants to hear at once how it stands."""
    message = f"The model's machine is waking (eta {eta}); the request did not ask to wait longer."
    headers = {"Retry-After": str(retry_after)} | ({} if should_retry else _NO_RETRY)
    return ApiError(503, "waking", message, headers)


def leaving() -> ApiError:
    return ApiError(503, "waking", "This gateway is shutting down; try again.", {"Retry-After": "1"})


def wake_timeout(cap: float) -> ApiError:
    return ApiError(504, "wake_timeout", f"No machine woke within {cap:g} s.")
