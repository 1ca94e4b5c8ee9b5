"""A token bucket, for what outsiders can cause at will."""

import math
from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Admits `burst` at once, and `rate` per second in the long run."""

    rate: float
    burst: int
    _spent: float = 0.0
    _at: float = math.inf

    def take(self, now: float) -> bool:
        """Return whether one more may pass. `now` is in seconds; a clock that steps back grants nothing."""
        self._spent = max(0.0, self._spent - self.rate * max(0.0, now - self._at))
        self._at = now
        if self._spent + 1 > self.burst:
            return False
        self._spent += 1
        return True
