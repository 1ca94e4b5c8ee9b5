"""What one key uses at this gateway: in the last minute, at once, and in the month beyond what the ledger has."""

from collections import deque
from dataclasses import dataclass, field
from math import ceil

SLOT_SECONDS = 61
"""A slot of one second counts until no moment of it lies within the last 60 s."""
STEP_BACK_SECONDS = 2
"""A clock that is behind by less than this is read as standing still."""
Amounts = tuple[int, int, int, int]
"""One number for each limit that a key may have; also what a request needs of each.

Requests and tokens of the last minute, requests at once, tokens of this month that the ledger has not confirmed; of
the tokens those included that are reserved.
"""
KeyLimits = tuple[int | None, int | None, int | None, int | None]
"""One limit for each of `Amounts`; None is unlimited."""
NONE: Amounts = (0, 0, 0, 0)
PER_MINUTE = 2
"""The first so many of `Amounts` are of a minute: only time takes them away."""


@dataclass(eq=False, slots=True)
class KeyUsage:
    """Plain numbers that requests change; every amount errs on the high side, never on the low.

    A running request holds the tokens that it reserved. All that it took count in the second of its end: so a stream
    of any length counts while it runs and a minute more, and no slot has to be found again.
    """

    second: int
    limits: KeyLimits = (None, None, None, None)
    """Those of the key's record at its last request; of the month what the ledger had left."""
    requests: int = 0
    tokens: int = 0
    running: int = 0
    minute_held: int = 0
    month_held: int = 0
    wanted: Amounts = NONE
    """What the last request needed of the limits whose rest was not settled between the gateways."""
    unmet_at: float = 0.0
    _slots: deque[list[int]] = field(default_factory=deque)
    """Each: its second, requests admitted in it, tokens of requests that ended in it."""
    _before: int = 0
    _after: int = 0
    _checkpoint: int = 0
    _newest: int = 0

    @property
    def used(self) -> Amounts:
        month = self._before + self._after + self.month_held
        return self.requests, self.tokens + self.minute_held, self.running, month

    def slide(self, second: int) -> None:
        """Forget what is older than a minute. After a jump back of the clock all of it counts for a minute more."""
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
        """Count into the slot of the second of the last `slide`."""
        self.requests += requests
        self.tokens += tokens
        if not self._slots or self._slots[-1][0] != self.second:
            self._slots.append([self.second, 0, 0])
        self._slots[-1][1] += requests
        self._slots[-1][2] += tokens

    def spend(self, tokens: int, seq: int) -> None:
        """Count tokens of the usage event `seq` for the month until the ledger has confirmed it.

        Two sums bound the memory: `_before` up to the event `_checkpoint`, `_after` for those behind it.
        """
        if not self._before:
            self._checkpoint = seq
            self._before = tokens
        else:
            self._after += tokens
        self._newest = max(self._newest, seq)

    def confirm(self, seq: int) -> None:
        """The ledger has every event up to `seq`."""
        while self._before and seq >= self._checkpoint:
            self._before, self._after, self._checkpoint = self._after, 0, self._newest

    @property
    def slides_at(self) -> float:
        """When the oldest of the minute's amounts is gone, in Unix seconds."""
        return self._slots[0][0] + SLOT_SECONDS if self._slots else float("inf")

    def seconds_until(self, at: int, limit: int, over: int) -> int:
        """Until `over` of a minute's amount is gone, 1 to 60; by the average pace where it is not this gateway's."""
        gone = 0
        for slot in self._slots:
            gone += slot[1 + at]
            if gone >= over:
                return min(60, max(1, slot[0] + SLOT_SECONDS - self.second))
        return min(60, max(1, ceil(60 * over / max(1, limit))))

    def seconds_until_clear(self, at: int) -> int:
        """Until nothing of a minute's amount is left, 0 to 60."""
        if at and self.minute_held:
            return 60
        for slot in reversed(self._slots):
            if slot[1 + at]:
                return min(60, max(0, slot[0] + SLOT_SECONDS - self.second))
        return 0
