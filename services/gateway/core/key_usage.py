"""What one key uses at this gateway: in the last minute, at once, and of the month as far as the ledger has it not."""

from collections import deque
from math import ceil
from typing import NamedTuple

SLOT_SECONDS = 61
"""A slot of one second counts until no moment of it lies within the last 60 s."""
STEP_BACK_SECONDS = 2
"""A clock that is behind by less than this is read as standing still."""


Limits4 = tuple[int | None, int | None, int | None, int | None]
"""One limit for each of `Amounts`; None is unlimited."""


class Amounts(NamedTuple):
    """One number for each limit that a key may have; also what a request asks of each."""

    requests: int
    """In the last minute."""
    tokens: int
    """In the last minute, reserved ones included."""
    concurrency: int
    month: int
    """Tokens of this month that the ledger has not confirmed, reserved ones included."""


NONE = Amounts(0, 0, 0, 0)


class KeyUsage:
    """Plain numbers that requests change; every amount errs on the high side, never on the low.

    Tokens of a request are reserved while it runs, and counted in full in the second of its end: so a stream of any
    length counts as long as it runs and a minute more, and no slot has to be found again.
    """

    __slots__ = (
        "_after",
        "_before",
        "_checkpoint",
        "_newest",
        "_slots",
        "limits",
        "limits_of",
        "minute_held",
        "month_held",
        "requests",
        "running",
        "second",
        "tokens",
        "wanted",
        "wanted_at",
    )

    def __init__(self, second: int) -> None:
        self.second = second
        self.limits: Limits4 = (None, None, None, None)
        """As the key's record had them at its last request; of the month what the ledger had left."""
        self.limits_of: tuple[object, object, float] = (None, None, 0.0)
        """What `limits` were made of: the key's record, the ledger's word of its month, the day."""
        self._slots: deque[list[int]] = deque()
        """Each: its second, requests admitted in it, tokens of requests that ended in it."""
        self.requests = 0
        self.tokens = 0
        self.running = 0
        self.minute_held = 0
        self.month_held = 0
        self._before = 0
        self._after = 0
        self._checkpoint = 0
        self._newest = 0
        self.wanted = NONE
        """What the last request asked of the limits whose rest was not settled between the gateways."""
        self.wanted_at = 0.0

    @property
    def used(self) -> Amounts:
        return Amounts(self.requests, self.tokens + self.minute_held, self.running, self.month)

    @property
    def month(self) -> int:
        """Tokens that are reserved, or counted and not known to be in the ledger."""
        return self._before + self._after + self.month_held

    @property
    def unconfirmed(self) -> bool:
        return self._before > 0

    def slide(self, second: int) -> None:
        """Forget what is older than a minute. After a jump back of the clock all of it counts for a minute more."""
        if second < self.second:
            if self.second - second < STEP_BACK_SECONDS:
                return
            self._slots = deque([[second, self.requests, self.tokens]])
        self.second = second
        slots = self._slots
        while slots and slots[0][0] <= second - SLOT_SECONDS:
            _, requests, tokens = slots.popleft()
            self.requests -= requests
            self.tokens -= tokens

    def count(self, requests: int, tokens: int) -> None:
        """Into the slot of the second that `slide` was told last."""
        self.requests += requests
        self.tokens += tokens
        slots = self._slots
        if slots and slots[-1][0] == self.second:
            slot = slots[-1]
            slot[1] += requests
            slot[2] += tokens
        else:
            slots.append([self.second, requests, tokens])

    def spend(self, tokens: int, seq: int) -> None:
        """Tokens of the usage event `seq`, until the ledger's mark is known to have reached it.

        Two sums bound the memory: `_before` up to the event `_checkpoint`, `_after` for those behind it.
        """
        if not self._before:
            self._checkpoint = seq
            self._before = tokens
        else:
            self._after += tokens
        self._newest = max(self._newest, seq)

    def confirm(self, mark: int) -> None:
        """Every event up to `mark` is in the ledger."""
        while self._before and mark >= self._checkpoint:
            self._before, self._after, self._checkpoint = self._after, 0, self._newest

    @property
    def slides_at(self) -> float:
        """When the oldest of the minute's amounts is gone, in Unix seconds."""
        return self._slots[0][0] + SLOT_SECONDS if self._slots else float("inf")

    def seconds_until(self, limit: int, over: int, *, tokens: bool) -> int:
        """Until `over` of the minute's amount is gone, 1 to 60; by the average pace where it is not this gateway's."""
        column = 2 if tokens else 1
        gone = 0
        for slot in self._slots:
            gone += slot[column]
            if gone >= over:
                return min(60, max(1, slot[0] + SLOT_SECONDS - self.second))
        return min(60, max(1, ceil(60 * over / max(1, limit))))

    def seconds_until_clear(self, *, tokens: bool) -> int:
        """Until nothing of the minute's amount is left, 0 to 60."""
        column = 2 if tokens else 1
        slots = self._slots
        if slots and slots[-1][column]:  # as a rule: written out, for this is on every answer's way
            return min(60, slots[-1][0] + SLOT_SECONDS - self.second)
        for slot in reversed(slots):
            if slot[column]:
                return min(60, max(0, slot[0] + SLOT_SECONDS - self.second))
        return 0
