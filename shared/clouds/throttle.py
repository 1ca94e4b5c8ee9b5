"""Limits how often an account is called: so many calls a minute, and a pause after the provider throttled us."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

WINDOW_S = 60.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
PATIENCE_S = 10.0
"""The longest that a call waits for its slot: less than the waker waits for the call."""


class TooManyCalls(Exception):
    """No slot was free in time, so the call was not made; the text says how long the wait would have been."""


class Throttle:
    """Shared by all calls of one account, on one event loop. Slots are given first come, first served.

    Usage: `sent_at = await throttle.acquire()`, the call, `throttle.record_response(sent_at, throttled=...)`.
    """

    def __init__(
        self,
        calls_per_minute: int,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._slots: deque[float] = deque(maxlen=calls_per_minute)
        """When the last calls were made or will be made."""
        self._pause_s = 0.0
        self._paused_until = float("-inf")

    async def acquire(self) -> float:
        """Wait for a slot, and return the time for `record_response`.

        Raises:
            TooManyCalls: the wait would be too long.
        """
        now = self._clock()
        at = max(now, self._paused_until)
        if len(self._slots) == self._slots.maxlen:
            at = max(at, self._slots[0] + WINDOW_S)
        if at - now > self._patience_s:
            raise TooManyCalls(f"too many calls: the next may be made in {at - now:.0f} s")
        self._slots.append(at)
        # A pause may have begun or grown meanwhile.
        while (wait := max(at, self._paused_until) - self._clock()) > 0:
            if self._clock() + wait - now > self._patience_s:
                raise TooManyCalls(f"the provider wants fewer calls: the next may be made in {wait:.0f} s")
            await self._sleep(wait)
        return self._clock()

    def record_response(self, sent_at: float, *, throttled: bool, repeats: int = 0) -> None:
        """Record whether the provider throttled the call. A call from before the present pause shows nothing new.

        Args:
            repeats: how often a library repeated the call by itself; repeats count like our own calls.
        """
        self._slots.extend([self._clock()] * repeats)
        if sent_at < self._paused_until:
            return
        if not throttled:
            self._pause_s = 0.0
            return
        self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
        now = self._clock()
        # Up to half as long again, so that wakers behind one address do not return together.
        self._paused_until = now + min(self._pause_s * (1 + self._jitter() / 2), LONGEST_PAUSE_S)
