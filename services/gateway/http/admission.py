"""From a checked request to a place on a machine: its key's limits, then a free place or the wait for one."""

import asyncio
import math
from collections.abc import Callable

from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.core.rate_limits import LimitExceeded, Reservation, Unsettled
from services.gateway.core.request_body import ParsedRequest
from services.gateway.core.scheduler import Ticket
from services.gateway.core.usage_record import UsageRecord
from services.gateway.door import Door
from services.gateway.http.request import AUTHORIZATION, Request
from services.gateway.http.waiting import Waiting, wake_estimate_of
from shared.config import Model
from shared.messages.keys import KeyRecord
from shared.messages.waker import MachineRecord

UNSETTLED_SECONDS = 0.02
UNSETTLED_TRIES = 5
"""Replicas agree on what is left of a limit within a few milliseconds; a tenth of a second is generous."""


class Admission:
    """After `begin` either `on_place` or `on_fail` is called, unless `end` comes first; `on_word` while it waits."""

    __slots__ = (
        "_asked",
        "_door",
        "_key",
        "_model",
        "_on_fail",
        "_on_place",
        "_on_word",
        "_request",
        "_tally",
        "_timer",
        "_waiting",
        "use",
    )

    def __init__(
        self,
        door: Door,
        request: Request,
        key: KeyRecord,
        model: Model,
        *,
        asked: ParsedRequest,
        tally: UsageRecord,
        on_place: Callable[[MachineRecord], None],
        on_word: Callable[[bytes], None],
        on_fail: Callable[[ApiError], None],
    ) -> None:
        self._door = door
        self._request = request
        self._key = key
        self._model = model
        self._asked = asked
        self._tally = tally
        self._on_place = on_place
        self._on_word = on_word
        self._on_fail = on_fail
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: Waiting | None = None
        self.use: Reservation | None = None
        """What the request takes of its key's limits; None: the key has none."""

    def begin(self, wait: float | None) -> None:
        """`wait`: the longest wait for a wake, in seconds; None: the cap. `ApiError` where it fails at once."""
        self._limit(wait, UNSETTLED_TRIES)

    def take_use(self) -> Reservation | None:
        """For the one who ends it: with what the request came to."""
        use, self.use = self.use, None
        return use

    def end(self) -> None:
        """Nothing is waited for any more, and what was taken of the limits for now is given back."""
        if self._timer is not None:
            self._timer.cancel()
        if self._waiting is not None:
            self._waiting.end()
            self._waiting = None
        if self.use is not None:
            self.use.settle(0, self._door.now(), None)

    def _limit(self, wait: float | None, tries: int) -> None:
        if self._key.limited:
            # Four bytes of JSON to a token is what English has; the count corrects it.
            tokens = len(self._asked.body) // 4 + self._asked.max_tokens
            decision = self._door.limiter.admit(self._key, tokens, self._door.now())
            if isinstance(decision, Unsettled):
                if tries > 0:
                    self._timer = asyncio.get_running_loop().call_later(UNSETTLED_SECONDS, self._again, wait, tries - 1)
                    return
                decision = self._door.limiter.give_up(decision)
            if isinstance(decision, LimitExceeded):
                raise decision.error()
            self.use = decision
        self._place(wait)

    def _again(self, wait: float | None, tries: int) -> None:
        self._timer = None
        try:
            self._limit(wait, tries)
        except ApiError as error:
            self._on_fail(error)

    def _place(self, wait: float | None) -> None:
        door, model, request = self._door, self._model, self._request
        machine = door.scheduler.try_acquire(model.name, self._key.id, door.now())
        if machine is not None:
            self._on_place(machine)
            return
        if not door.scheduler.is_servable(model):
            raise errors.no_upstream(model.name)
        reached = door.wake_limits.reached(self._key, model.name)
        if reached is not None and not door.scheduler.is_awake(model.name):
            door.metrics.limit_hits[reached] += 1
            raise door.wake_limits.error(self._key, reached)
        gateway = door.config.gateway
        deadline = request.arrived + (wait or gateway.hold_cap)
        if wait == 0:
            if reached is None:
                door.demand.ask_once(model.name, request.id, door.wake_limits.cause(self._key), deadline)
            raise wake_estimate_of(door, model).refusal(should_retry=False)
        waiting = Waiting(
            door,
            model,
            Ticket(
                model.name,
                self._key.id,
                request.id,
                deadline,
                self._granted,
                self._refused,
                cause=door.wake_limits.cause(self._key),
                may_wake=reached is None,
            ),
            first_word=request.arrived + gateway.headers_held if self._asked.stream else math.inf,
            capped=wait is None or wait >= gateway.hold_cap,
            on_word=self._on_word,
            on_fail=self._on_fail,
        )
        waiting.begin()
        self._waiting = waiting

    def _refused(self, error: ApiError) -> None:
        waiting, self._waiting = self._waiting, None
        assert waiting is not None, "only who waits is sent away"
        self._tally.wake_wait = waiting.end()
        self._on_fail(error)

    def _granted(self, machine: MachineRecord) -> None:
        """A place is booked for this request, which waited for it."""
        waiting, self._waiting = self._waiting, None
        assert waiting is not None, "only who waits is granted a place"
        self._tally.wake_wait = waiting.end()
        self._tally.wake_id = machine.wake_id
        self._door.metrics.wake_wait.observe(self._tally.wake_wait)
        try:
            self._door.authorize(self._request.headers.get(AUTHORIZATION))
        except ApiError as error:  # revoked or expired while it waited
            self._door.machine_left(machine.machine)
            self._on_fail(error)
        else:
            self._on_place(machine)
