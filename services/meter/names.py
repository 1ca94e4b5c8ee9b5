"""The names that the meter knows: the configuration's models, and all keys that there are."""

from collections.abc import Iterable

from services.meter.core.unknown import Known
from shared.bus.ports import Bus
from shared.bus.topology import KEYS
from shared.bus.view import View
from shared.messages.keys import KeyRecord


class Names:
    """Calling it costs nothing between two changes of the keys."""

    def __init__(self, models: Iterable[str]) -> None:
        self._models = frozenset(models)
        self._keys = View(KEYS, KeyRecord, self._changed)
        self._known: Known | None = None

    async def start(self, bus: Bus) -> None:
        """Returns once the keys have been read."""
        await self._keys.start(bus)

    async def stop(self) -> None:
        await self._keys.stop()

    def __call__(self) -> Known:
        if self._known is None:
            self._known = Known(models=self._models, keys=frozenset(record.id for record in self._keys.values()))
        return self._known

    def _changed(self, _key: str) -> None:
        self._known = None
