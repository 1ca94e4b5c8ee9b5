"""A request that waits for a machine: until it gets a place, its deadline passes, or it is refused."""

import asyncio
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

import structlog

from services.gateway.app.dispatcher import Dispatcher
from services.gateway.core import errors
from services.gateway.core.errors import ApiError
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.waiting_queue import Ticket
from services.gateway.core.wake_estimate import WakeEstimate
from shared.config.fleet import Model
from shared.messages.waker import MachineRecord

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class HeldRequest:
    """The wait for a place, which the scheduler's ticket grants or refuses. `now` is Unix seconds.

    Arguments:
        is_capped: whether the deadline is the cap's and not the caller's own.
        next_comment: when to call `comment` first, then every `heartbeat` seconds; infinite: never.
    """

    scheduler: RequestScheduler
    dispatcher: Dispatcher
    model: Model
    _: KW_ONLY
    is_capped: bool
    next_comment: float
    heartbeat: float
    comment: Callable[[bytes], None] | None
    now: Callable[[], float]
    _outcome: "asyncio.Future[MachineRecord | ApiError]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    _timer: asyncio.TimerHandle | None = None
    _estimate: WakeEstimate | None = None
    """What the client was shown last."""

    def on_granted(self, machine: MachineRecord) -> None:
        if self._outcome.done():  # the client has just left
            asyncio.get_running_loop().call_soon(self.dispatcher.release, machine.machine)
        else:
            self._outcome.set_result(machine)

    def on_refused(self, error: ApiError) -> None:
        if not self._outcome.done():
            self._outcome.set_result(error)

    async def wait(self, ticket: Ticket, cap: float) -> MachineRecord:
        """Return the machine on which the request has a place.

        Raises:
            ApiError: the deadline has passed, or the request was refused.
        """
        self._arm(ticket, cap)
        try:
            outcome = await self._outcome
        except asyncio.CancelledError:
            if not self._outcome.cancelled() and not isinstance(machine := self._outcome.result(), ApiError):
                self.dispatcher.release(machine.machine)
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if isinstance(outcome, ApiError):
            raise outcome
        return outcome

    def _arm(self, ticket: Ticket, cap: float) -> None:
        pause = min(ticket.deadline, self.next_comment) - self.now()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, pause), self._on_time, ticket, cap)

    def _on_time(self, ticket: Ticket, cap: float) -> None:
        try:
            self._continue(ticket, cap)
        except Exception:  # otherwise nothing would end the wait
            log.exception("hold_failed", request_id=ticket.request_id)
            self.on_refused(errors.internal_error())

    def _continue(self, ticket: Ticket, cap: float) -> None:
        now = self.now()
        if now >= ticket.deadline:
            self.scheduler.remove(ticket)
            estimate = self.dispatcher.estimate(self.model)
            self.on_refused(errors.wake_timeout(cap) if self.is_capped else estimate.to_error())
            return
        if self.comment is not None and now >= self.next_comment:
            self.next_comment = now + self.heartbeat
            self._estimate = self.dispatcher.estimate(self.model).after(self._estimate)
            self.comment(self._estimate.comment())
        self._arm(ticket, cap)
