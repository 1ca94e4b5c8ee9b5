"""The wakes that a person's requests caused, from the site's own table of wakes."""

from collections.abc import Callable, Sequence
from typing import Protocol

from services.site.app.own_keys import OwnKey
from services.site.app.own_usage import DAYS
from services.site.core.wakes import ShownWake, Wake, shown_wake
from shared.units import DAY_S, Millis, to_millis

MOST_WAKES = 100
"""Listed, the newest."""


class CausedWakes(Protocol):
    """The wakes on record, by the key whose request caused them. Raises what `DATABASE_ERRORS` lists."""

    async def caused_by(self, key_ids: Sequence[str], since: Millis, most: int) -> list[Wake]: ...


class OwnWakes:
    """Lists a person's wakes of the same days as their usage."""

    def __init__(self, history: CausedWakes, *, cap_s: float, now: Callable[[], float]) -> None:
        self._history = history
        self._cap_s = cap_s
        self._now = now

    async def read(self, keys: Sequence[OwnKey]) -> list[ShownWake]:
        """Return the newest wakes that these keys caused, the newest first."""
        now, names = self._now(), {key.record.id: key.record.name for key in keys}
        first = now // DAY_S * DAY_S - (DAYS - 1) * DAY_S
        caused = await self._history.caused_by([*names], to_millis(first), MOST_WAKES)
        return [shown_wake(wake, names[wake.key_id or ""], cap_s=self._cap_s, now=now) for wake in caused]
