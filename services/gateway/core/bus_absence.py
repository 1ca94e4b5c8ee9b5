"""When a gateway without the bus stops being ready.

A gateway cannot know whether it alone has lost the bus or all gateways have. If it alone has, clients are better served
elsewhere. If all have, they must not all go away at once, since what is awake can still be served. So the gateways give
up one by one, in an order that each knows from before the outage: the youngest when `unready_without_bus` has passed,
the next ones evenly spread over the same time again. Each is unready before twice that time has passed.
"""

from dataclasses import dataclass

CURRENT_SECONDS = 12.0
"""A view is confirmed every 5 s. Once none has been for this long, the connection is none."""
PLACE_SECONDS = 7.0
"""The place is taken only from views at most this old: soon after, the others seem to be gone."""


@dataclass(frozen=True, slots=True)
class Place:
    """A gateway among all that can be reached: `younger` of `gateways` are younger than it."""

    younger: int = 0
    gateways: int = 1


@dataclass(eq=False, slots=True)
class BusAbsence:
    """Call `observe` about once a second. Times are seconds of one clock that never jumps."""

    limit_s: float
    """`unready_without_bus`."""
    _present_at: float
    _absent_s: float = 0.0
    _place: Place = Place()

    def observe(self, now: float, *, connected: bool, age_s: float, place: Place) -> None:
        """Note whether the bus is there. `age_s` is the age of the view that was confirmed last."""
        if connected and age_s <= CURRENT_SECONDS:
            self._present_at, self._absent_s = now, 0.0
            if age_s <= PLACE_SECONDS:
                self._place = place
        else:
            self._absent_s = now - self._present_at if not connected else max(now - self._present_at, age_s)

    @property
    def fault(self) -> str | None:
        """Why the gateway is not ready; None if it is."""
        limit_s = self.limit_s * (1 + self._place.younger / self._place.gateways)
        if self._absent_s <= limit_s:
            return None
        return f"without the bus for {self._absent_s:.0f} s, longer than this gateway's {limit_s:g} s"
