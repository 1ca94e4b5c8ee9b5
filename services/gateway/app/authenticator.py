"""Checks API keys, and which models a key may use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.gateway.core import errors
from shared.config.fleet import Model
from shared.messages.keys import KeyRecord, digest


@dataclass(eq=False)
class Authenticator:
    """Finds the key and the model of a request. `keys` has key records by digest; `now` is Unix seconds."""

    models: Mapping[str, Model]
    keys: Mapping[str, KeyRecord]
    now: Callable[[], float]

    def key_of(self, header: str | None) -> KeyRecord | None:
        """Return the key in an `Authorization` header; None if there is none that may be used."""
        scheme, _, secret = (header or "").partition(" ")
        if not secret or scheme.lower() != "bearer":
            return None
        record = self.keys.get(digest(secret.strip().encode("utf-8", "surrogateescape")))
        return record if record is not None and record.usable(self.now()) else None

    def authenticate(self, header: str | None) -> KeyRecord:
        """Return the key in an `Authorization` header.

        Raises:
            ApiError: 401.
        """
        key = self.key_of(header)
        if key is None:
            raise errors.invalid_api_key()
        return key

    def model(self, name: str, key: KeyRecord) -> Model:
        """Return the model of that name.

        Raises:
            ApiError: 404, or 403 if the key may not use it.
        """
        model = self.models.get(name)
        if model is None:
            raise errors.model_not_found(name)
        if not key.allows(name):
            raise errors.model_not_allowed(name)
        return model
