"""How often an account is called: so many calls a minute, and none for a while once it said that it was too many."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

WINDOW_SECONDS = 60.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
PATIENCE = 10.0
"""The longest that a call waits for its turn, in seconds: less than the waker waits for the call."""


class Crowded(Exception):
    """No turn within the patience: the call was not made. In words, with the wait that it would have taken."""


class Throttle:
    """Shared by all calls of one account, on one event loop. Turns are given in the order in which they are asked for.

    Usage: `turn = await throttle.turn()`, the call, `throttle.answered(turn, throttled=...)`.
    """

    def __init__(
        self,
        calls_per_minute: int,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._turns: deque[float] = deque(maxlen=calls_per_minute)
        """When the last calls were made or will be."""
        self._pause = 0.0
        self._paused_until = float("-inf")

    async def turn(self) -> float:
        """Waits for it. What it returns names the call to `answered`; `Crowded`."""
        now = self._clock()
        at = max(now, self._paused_until)
        if len(self._turns) == self._turns.maxlen:
            at = max(at, self._turns[0] + WINDOW_SECONDS)
        if at - now > self._patience:
            raise Crowded(f"too many calls: the next may be made in {at - now:.0f} s")
        self._turns.append(at)
        # A pause may have begun or grown meanwhile.
        while (wait := max(at, self._paused_until) - self._clock()) > 0:
            if self._clock() + wait - now > self._patience:
                raise Crowded(f"the provider wants fewer calls: the next may be made in {wait:.0f} s")
            await self._sleep(wait)
        return self._clock()

    def answered(self, turn: float, *, throttled: bool, repeats: int = 0) -> None:
        """What the provider said to the call. About one made before the pause it has nothing new to say.

        `repeats`: how often a library made the call again by itself; they count like calls of ours.
        """
        self._turns.extend([self._clock()] * repeats)
        if turn < self._paused_until:
            return
        if not throttled:
            self._pause = 0.0
            return
        self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
        now = self._clock()
        # Up to a half more, so that wakers behind one address do not come back together.
        self._paused_until = now + min(self._pause * (1 + self._jitter() / 2), LONGEST_PAUSE)
