"""A bound on how often something happens that outsiders cause."""


class TokenBucket:
    """Lets `burst` pass at once, and `rate` a second in the long run."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Return whether one more may pass now. `now` is in seconds; a clock that goes back grants nothing."""
        if self._at is not None:
            self._left = min(self._burst, self._left + self._rate * max(0.0, now - self._at))
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
