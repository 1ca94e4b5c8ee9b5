"""What the gateway itself answers to `GET` and `HEAD`."""

from collections.abc import Callable
from urllib.parse import unquote

import msgspec

from services.gateway.core import errors, openapi
from services.gateway.core.endpoints import ENDPOINTS, MODELS, OPENAPI, PAGES
from services.gateway.core.paths import with_version
from services.gateway.door import Door
from shared.config import Model
from shared.messages.keys import KeyRecord

METHODS = ("GET", "HEAD")


class Pages:
    """`get` returns a status and JSON, or raises `ApiError`."""

    def __init__(self, door: Door, is_ready: Callable[[], bool]) -> None:
        self._door = door
        self._is_ready = is_ready
        self._document = openapi.document()
        self._created = int(door.now())
        """When the configuration was read, Unix seconds."""

    def needs_key(self, path: str) -> bool:
        """Whether the page is a key's; 404 where there is none."""
        if path.startswith(f"{MODELS.path}/"):
            return True
        if path not in PAGES:
            raise errors.not_found(path, with_version(path, (*ENDPOINTS, *PAGES)))
        return PAGES[path].needs_key

    def get(self, path: str, key: KeyRecord | None) -> tuple[int, bytes]:
        """`key` is one where the page needs it."""
        if key is not None:
            return 200, self._models(key, path)
        if path == OPENAPI.path:
            return 200, self._document
        if self._door.leaving:
            return 503, b'{"status":"draining"}'
        return (200, b'{"status":"ok"}') if self._is_ready() else (503, b'{"status":"not ready"}')

    def _models(self, key: KeyRecord, path: str) -> bytes:
        name = path.removeprefix(MODELS.path).removeprefix("/")
        if not name:
            listed = [self._entry(model) for model in self._door.config.model if key.allows(model.name)]
            return msgspec.json.encode({"object": "list", "data": listed})
        return msgspec.json.encode(self._entry(self._door.model(unquote(name), key)))

    def _entry(self, model: Model) -> dict[str, object]:
        entry = {"id": model.name, "object": "model", "created": self._created, "owned_by": "spotinference"}
        records = (self._door.fleet.get(machine.id) for machine in self._door.config.machines_of(model))
        lengths = [record.max_model_len for record in records if record is not None and record.max_model_len]
        # What every machine takes that may get the request.
        return entry | {"max_model_len": min(lengths)} if lengths else entry
