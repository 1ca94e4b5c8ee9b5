"""One held request: from its ticket to a place, its deadline, or its caller's leaving."""

import asyncio
import math
from collections.abc import Callable

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.core.scheduler import Ticket, TooManyWaiting
from services.gateway.core.wake_estimate import WakeEstimate, estimate_wake
from services.gateway.door import Door
from shared.config import Model


def wake_limit(given: str | None, cap: float) -> float | None:
    """`X-Wake-Timeout` in seconds, at most `cap`; None where it is not given, 400 where it is no number."""
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        message = f"X-Wake-Timeout: expected seconds such as 30, or 0 for no waiting, got {given[:40]!r}."
        raise errors.invalid_request("X-Wake-Timeout", message)
    return min(seconds, cap)


class Waiting:
    """After `begin` the ticket is granted or `on_fail` is called, unless `end` comes first; `on_word` in between."""

    __slots__ = (
        "_begun",
        "_capped",
        "_deadline",
        "_door",
        "_model",
        "_next_word",
        "_on_fail",
        "_on_word",
        "_ticket",
        "_timer",
    )

    def __init__(
        self,
        door: Door,
        model: Model,
        ticket: Ticket,
        *,
        first_word: float,
        capped: bool,
        on_word: Callable[[bytes], None],
        on_fail: Callable[[ApiError], None],
    ) -> None:
        self._door = door
        self._model = model
        self._ticket = ticket
        self._deadline = ticket.deadline
        self._next_word = first_word
        """Unix seconds; infinite for a caller who is told nothing while it waits."""
        self._capped = capped
        """Whether the deadline is the cap's, not the caller's own."""
        self._on_word = on_word
        self._on_fail = on_fail
        self._timer: asyncio.TimerHandle | None = None
        self._begun = door.now()

    def begin(self) -> None:
        """`ApiError` where too many wait already."""
        try:
            self._door.scheduler.enqueue(self._ticket)
        except TooManyWaiting as error:
            self._door.metrics.limit_hits[error.limit] += 1
            raise errors.too_many_waiting(self.wake_estimate().retry_after) from None
        self._door.demand.changed(self._model.name)
        self._arm()

    def end(self) -> float:
        """It waits no more, granted or not. Returns how long it has, in seconds."""
        if self._timer is not None:
            self._timer.cancel()
        self._door.scheduler.leave(self._ticket)
        self._door.demand.changed(self._model.name)
        return max(0.0, self._door.now() - self._begun)

    def wake_estimate(self) -> WakeEstimate:
        return wake_estimate_of(self._door, self._model)

    def _arm(self) -> None:
        pause = min(self._deadline, self._next_word) - self._door.now()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, pause), self._on_time)

    def _on_time(self) -> None:
        now = self._door.now()
        if now >= self._deadline:
            cap = self._door.config.gateway.hold_cap
            self._on_fail(errors.wake_timeout(cap) if self._capped else self.wake_estimate().refusal())
            return
        if now >= self._next_word:
            self._next_word = now + self._door.config.gateway.heartbeat
            self._on_word(self.wake_estimate().comment())
        self._arm()


def wake_estimate_of(door: Door, model: Model) -> WakeEstimate:
    """What is known now of the model's machines in open tiers."""
    now = door.now()
    tiers = [tier for tier in model.lineup if not door.gates.tier(tier, now)] or model.lineup
    machines = [machine for machine in door.config.machines_of(model) if machine.tier in tiers]
    records = [(record, door.fleet.age(m.id)) for m in machines if (record := door.fleet.get(m.id)) is not None]
    return estimate_wake(tiers[0], records, now)
