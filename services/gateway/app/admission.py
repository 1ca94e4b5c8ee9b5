"""Admission of a request: the budget gate, the key's limits, and the wait for a place on a machine."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from services.gateway.app.dispatcher import Dispatcher
from services.gateway.app.held_request import HeldRequest
from services.gateway.core import errors
from services.gateway.core.rate_limits import LimitExceeded, RateLimiter, Reservation, Unsettled
from services.gateway.core.scheduler import RequestScheduler, TooManyWaiting
from services.gateway.core.waiting_queue import Ticket
from services.gateway.core.wake_limits import WakeLimits
from services.gateway.metrics import Metrics
from services.gateway.ports import UsageStore, WakeRequester
from shared.config.fleet import Model
from shared.config.sections import GatewaySection
from shared.messages.keys import KeyRecord
from shared.messages.waker import MachineRecord

UNSETTLED_SECONDS = 0.02
UNSETTLED_RETRIES = 5
"""Replicas agree on what is left of a limit within a few milliseconds; 0.1 s is generous."""


def parse_wake_timeout(value: str | None, cap: float) -> float | None:
    """Return `X-Wake-Timeout` in seconds, at most `cap`; None if it is absent.

    Raises:
        ApiError: 400 if it is not a number of seconds.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        message = f"X-Wake-Timeout must be a number of seconds such as 30, or 0 not to wait. Got {value[:40]!r}."
        raise errors.invalid_request("X-Wake-Timeout", message)
    return min(seconds, cap)


@dataclass(eq=False)
class Admission:
    """Decides whether a request may be served, and where. `now` is Unix seconds."""

    settings: GatewaySection
    scheduler: RequestScheduler
    dispatcher: Dispatcher
    demand: WakeRequester
    outbox: UsageStore
    _: KW_ONLY
    limits: RateLimiter
    wake_limits: WakeLimits
    metrics: Metrics
    now: Callable[[], float]

    def check(self, model: Model) -> None:
        """Raise `ApiError` (503) if no new request of the model may be served."""
        if fault := self.outbox.fault:
            raise errors.outbox_full(fault)
        self.dispatcher.check_gate(model.name)

    async def reserve(self, key: KeyRecord, tokens: int) -> Reservation | None:
        """Reserve what a request may use of its key's limits; return None if the key has none.

        Raises:
            ApiError: 429.
        """
        if not key.is_limited:
            return None
        retries_left = UNSETTLED_RETRIES
        while isinstance(decision := self.limits.admit(key, tokens, self.now()), Unsettled) and retries_left:
            retries_left -= 1
            await asyncio.sleep(UNSETTLED_SECONDS)
        if isinstance(decision, Unsettled):
            decision = self.limits.give_up(decision)
        if isinstance(decision, LimitExceeded):
            raise decision.error()
        return decision

    async def place(self, model: Model, key: KeyRecord) -> MachineRecord | None:
        """Take a place on a machine, if there is one; wait while the gateways share out free ones."""
        machine = self.scheduler.try_acquire(model.name, key.id, self.now())
        retries_left = UNSETTLED_RETRIES
        while machine is None and retries_left and self.scheduler.is_unsettled(model.name):
            retries_left -= 1
            await asyncio.sleep(UNSETTLED_SECONDS)
            machine = self.scheduler.try_acquire(model.name, key.id, self.now())
        return machine

    async def hold(
        self,
        model: Model,
        key: KeyRecord,
        request_id: str,
        *,
        arrived: float,
        wake_timeout: float | None,
        comment: Callable[[bytes], None] | None,
    ) -> MachineRecord:
        """Wait for a place on a machine.

        Arguments:
            arrived: Unix seconds; the wait ends one cap later, or `wake_timeout` seconds later.
            comment: sends a comment to a waiting stream; None: the request is held silently.

        Raises:
            ApiError: 429 or 503 at once, or whatever ends the wait.
        """
        if not self.scheduler.is_servable(model):
            raise errors.no_upstream(model.name)
        cap = self.settings.hold_cap
        cause = self.wake_limits.cause(key)
        reached = self.wake_limits.reached(key, model.name)
        if reached is not None and not self.scheduler.is_awake(model.name):
            self.metrics.limit_hits[reached] += 1
            raise self.wake_limits.error(key, reached)
        if wake_timeout == 0:
            if reached is None:
                self.demand.request_once(model.name, request_id, cause, arrived + cap)
            raise self.dispatcher.estimate(model).to_error(should_retry=False)
        held = HeldRequest(
            self.scheduler,
            self.dispatcher,
            model,
            is_capped=wake_timeout is None or wake_timeout >= cap,
            next_comment=arrived + self.settings.headers_held if comment else math.inf,
            heartbeat=self.settings.heartbeat,
            comment=comment,
            now=self.now,
        )
        ticket = Ticket(
            model.name,
            key.id,
            request_id,
            arrived + (wake_timeout or cap),
            held.on_granted,
            held.on_refused,
            cause=cause,
            arrived=arrived,
            may_wake=reached is None,
        )
        try:
            self.scheduler.enqueue(ticket)
        except TooManyWaiting as error:
            self.metrics.limit_hits[error.limit] += 1
            raise errors.too_many_waiting(self.dispatcher.estimate(model).retry_after) from None
        try:
            self.demand.changed(model.name)
            return await held.wait(ticket, cap)
        finally:
            self.scheduler.remove(ticket)
            self.demand.changed(model.name)
