"""Bounds how often a network or a person tries something, in this process's memory: each replica has its own."""

from collections import OrderedDict
from collections.abc import Callable

PER_MINUTE = 20
MOST_KEPT = 10_000
WINDOW_S = 60.0


class Attempts:
    """Counts per source and minute."""

    def __init__(self, monotonic: Callable[[], float], *, per_minute: int = PER_MINUTE) -> None:
        self._monotonic = monotonic
        self._per_minute = per_minute
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, source: str) -> bool:
        """Count an attempt. False: there were too many in this minute."""
        now = self._monotonic()
        began, count = self._counts.get(source, (now, 0))
        if now - began >= WINDOW_S:
            began, count = now, 0
        self._counts[source] = began, count + 1
        self._counts.move_to_end(source)
        if len(self._counts) > MOST_KEPT:
            self._counts.popitem(last=False)
        return count < self._per_minute
