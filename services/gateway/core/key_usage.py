"""One key's usage at this gateway: of the last minute, in flight, and of the month as far as the ledger lacks it."""

from collections import deque
from dataclasses import dataclass, field
from math import ceil

SLOT_SECONDS = 61
"""A slot of one second counts until all of it is older than 60 s."""
STEP_BACK_SECONDS = 2
"""A clock that steps back by less than this counts as standing still."""
Amounts = tuple[int, int, int, int]
"""One number per limit of a key; also what a request needs of each.

In this order: requests and tokens of the last minute, requests in flight, and tokens of this month that the ledger has
not confirmed. Tokens include those that are reserved.
"""
KeyLimits = tuple[int | None, int | None, int | None, int | None]
"""One limit for each number of `Amounts`; None is unlimited."""
NONE: Amounts = (0, 0, 0, 0)
PER_MINUTE = 2
"""The first two numbers of `Amounts` are per minute: only time reduces them."""
CONCURRENCY = 2
"""Where the requests in flight stand."""


@dataclass(eq=False, slots=True)
class KeyUsage:
    """Plain counters. Every amount may be too high for a while, but never too low.

    A running request holds the tokens that it reserved. The tokens that it used count in the second in which it ends: a
    stream of any length counts while it runs and for one minute more, and no past slot ever changes.
    """

    second: int
    limits: KeyLimits = (None, None, None, None)
    """The limits as of the last request; for the month, what the ledger had left."""
    requests: int = 0
    tokens: int = 0
    running: int = 0
    minute_held: int = 0
    month_held: int = 0
    unmet: Amounts = NONE
    """What the last request lacked of the limits that the gateways were still sharing out."""
    unmet_at: float = 0.0
    _slots: deque[list[int]] = field(default_factory=deque)
    """Each slot: its second, the requests admitted in it, the tokens of the requests that ended in it."""
    _before: int = 0
    _after: int = 0
    _checkpoint: int = 0
    _newest: int = 0

    @property
    def used(self) -> Amounts:
        month = self._before + self._after + self.month_held
        return self.requests, self.tokens + self.minute_held, self.running, month

    def slide(self, second: int) -> None:
        """Drop what is older than a minute. After the clock jumps back, everything counts for one minute more."""
        if second < self.second:
            if self.second - second < STEP_BACK_SECONDS:
                return
            self._slots = deque([[second, self.requests, self.tokens]])
        self.second = second
        while self._slots and self._slots[0][0] <= second - SLOT_SECONDS:
            _, requests, tokens = self._slots.popleft()
            self.requests -= requests
            self.tokens -= tokens

    def count(self, requests: int, tokens: int) -> None:
        """Count in the second of the last `slide`."""
        self.requests += requests
        self.tokens += tokens
        if not self._slots or self._slots[-1][0] != self.second:
            self._slots.append([self.second, 0, 0])
        self._slots[-1][1] += requests
        self._slots[-1][2] += tokens

    def spend(self, tokens: int, seq: int) -> None:
        """Count the tokens of the usage event `seq` for the month until the ledger has confirmed it.

        Two sums bound the memory: `_before` for events up to `_checkpoint`, `_after` for later ones.
        """
        if not self._before:
            self._checkpoint = seq
            self._before = tokens
        else:
            self._after += tokens
        self._newest = max(self._newest, seq)

    def confirm(self, seq: int) -> None:
        """Stop counting events up to `seq`: the ledger has them."""
        while self._before and seq >= self._checkpoint:
            self._before, self._after, self._checkpoint = self._after, 0, self._newest

    @property
    def slides_at(self) -> float:
        """When the oldest slot drops out of the minute, in Unix seconds."""
        return self._slots[0][0] + SLOT_SECONDS if self._slots else float("inf")

    def seconds_until(self, at: int, limit: int, over: int) -> int:
        """Return the seconds, 1 to 60, until `over` of a per-minute amount has dropped out; at the average pace if it
        is not this gateway's own usage."""
        gone = 0
        for slot in self._slots:
            gone += slot[1 + at]
            if gone >= over:
                return min(60, max(1, slot[0] + SLOT_SECONDS - self.second))
        return min(60, max(1, ceil(60 * over / max(1, limit))))

    def seconds_until_clear(self, at: int) -> int:
        """Return the seconds, 0 to 60, until nothing of a per-minute amount is left."""
        if at and self.minute_held:
            return 60
        for slot in reversed(self._slots):
            if slot[1 + at]:
                return min(60, max(0, slot[0] + SLOT_SECONDS - self.second))
        return 0
