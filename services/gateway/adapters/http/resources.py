"""The handler of what the gateway serves itself: `GET`, `HEAD`, preflights, and unknown paths."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from urllib.parse import unquote

import msgspec
import structlog
from aiohttp import hdrs, web

from services.gateway.adapters.http.client_response import ClientResponse
from services.gateway.adapters.http.request_log import RequestLog
from services.gateway.app.authenticator import Authenticator
from services.gateway.app.lifecycle import Lifecycle
from services.gateway.core import errors, openapi
from services.gateway.core.cors import Cors
from services.gateway.core.endpoints import ENDPOINTS, HEALTH, MODELS, OPENAPI, RESOURCES
from services.gateway.core.errors import ApiError
from services.gateway.core.paths import normalize, suggest_path
from shared.config.fleet import Model
from shared.config.sections import Config
from shared.messages.keys import KeyRecord
from shared.messages.waker import MachineRecord

METHODS = (hdrs.METH_GET, hdrs.METH_HEAD)
log = structlog.get_logger()

JSON_FIELDS = b"Content-Type: application/json\r\n"


@dataclass(eq=False)
class Resources:
    """Handles all requests that no engine serves. `started` is when the configuration was read, in Unix seconds."""

    config: Config
    authenticator: Authenticator
    lifecycle: Lifecycle
    fleet: Mapping[str, MachineRecord]
    request_log: RequestLog
    _: KW_ONLY
    cors: Cors | None
    started: float
    is_ready: Callable[[], bool]
    open_response: Callable[[web.BaseRequest], ClientResponse]
    _document: bytes = field(default_factory=openapi.document)

    async def handle(self, request: web.Request) -> ClientResponse:
        response = self.open_response(request)
        try:
            response.check_head()
            preflight = self.cors.preflight(request.method, request.headers) if self.cors else None
            status, fields, body = (200, preflight, b"") if preflight is not None else self._get(response)
        except ApiError as rejection:
            self._fail(response, rejection.without_traceback())
        except Exception:
            log.exception("resource_failed", request_id=response.id)
            self._fail(response, errors.internal_error())
        else:
            self.request_log.write(response, status)
            response.respond(status, fields, body)
        return response

    def _fail(self, response: ClientResponse, error: ApiError) -> None:
        response.key = self.authenticator.key_of(response.request.headers.get(hdrs.AUTHORIZATION))
        self.request_log.write(response, error.status, error.code)
        response.fail(error)

    def _get(self, response: ClientResponse) -> tuple[int, bytes, bytes]:
        """Return status, header lines and JSON."""
        request = response.request
        path = normalize(request.raw_path)
        if path in ENDPOINTS:
            raise errors.method_not_allowed(request.method, hdrs.METH_POST)
        is_model = path.startswith(f"{MODELS.path}/")
        if path not in RESOURCES and not is_model:
            raise errors.not_found(path, suggest_path(path, (*ENDPOINTS, *RESOURCES)))
        if request.method not in METHODS:
            raise errors.method_not_allowed(request.method, ", ".join(METHODS))
        if path == OPENAPI.path:
            return 200, JSON_FIELDS, self._document
        if path == HEALTH.path:
            return self._health()
        response.key = key = self.authenticator.authenticate(request.headers.get(hdrs.AUTHORIZATION))
        if is_model:
            name = unquote(path.removeprefix(f"{MODELS.path}/"))
            return 200, JSON_FIELDS, msgspec.json.encode(self._entry(self.authenticator.model(name, key)))
        return 200, JSON_FIELDS, self._models(key)

    def _health(self) -> tuple[int, bytes, bytes]:
        if self.lifecycle.is_leaving:
            return 503, JSON_FIELDS, b'{"status":"draining"}'
        if not self.is_ready():
            return 503, JSON_FIELDS, b'{"status":"not ready"}'
        return 200, JSON_FIELDS, b'{"status":"ok"}'

    def _models(self, key: KeyRecord) -> bytes:
        entries = [self._entry(model) for model in self.config.model if key.allows(model.name)]
        return msgspec.json.encode({"object": "list", "data": entries})

    def _entry(self, model: Model) -> dict[str, object]:
        entry = {"id": model.name, "object": "model", "created": int(self.started), "owned_by": "spotinference"}
        records = (self.fleet.get(machine.id) for machine in self.config.machines_of(model))
        lengths = [record.max_model_len for record in records if record is not None and record.max_model_len]
        # A length that every machine of the model accepts.
        return entry | {"max_model_len": min(lengths)} if lengths else entry
