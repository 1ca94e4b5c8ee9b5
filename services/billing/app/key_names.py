"""The current names of API keys, from the bucket `keys`."""

from collections.abc import Callable, Mapping

from shared.bus.ports import Bus
from shared.bus.topology import KEYS
from shared.bus.view import View
from shared.key_names import names_by_key_id
from shared.messages.keys import KeyRecord

KeyNamesById = Callable[[], Mapping[str, str]]
"""Names by key id, at the moment of the call."""


class KeyNames:
    """Follows the bucket between `start` and `stop`. Calling the object returns the names by id."""

    def __init__(self) -> None:
        self._view: View[KeyRecord] | None = None

    async def start(self, bus: Bus) -> None:
        """Return when the keys have been read."""
        self._view = View(KEYS, KeyRecord)
        await self._view.start(bus)

    async def stop(self) -> None:
        if self._view is not None:
            await self._view.stop()

    def __call__(self) -> Mapping[str, str]:
        return {} if self._view is None else names_by_key_id(self._view.values())
