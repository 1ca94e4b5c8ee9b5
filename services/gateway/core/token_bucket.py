"""A bound on how often something happens that outsiders cause."""

import math
from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Lets `burst` pass at once, and `rate` a second in the long run."""

    rate: float
    burst: int
    _spent: float = 0.0
    _at: float = math.inf

    def take(self, now: float) -> bool:
        """Return whether one more may pass now. `now` is in seconds; a clock that goes back grants nothing."""
        self._spent = max(0.0, self._spent - self.rate * max(0.0, now - self._at))
        self._at = now
        if self._spent + 1 > self.burst:
            return False
        self._spent += 1
        return True
