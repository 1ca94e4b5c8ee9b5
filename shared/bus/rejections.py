"""What came over the bus and could not be taken: rejected alone, counted by its source, logged at a bounded rate."""

from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import uuid4

import structlog

from shared.messages.codec import encode
from shared.messages.meter import ErrorReply
from shared.units import MINUTE_S

LOGGED_PER_MINUTE = 10
"""Lines for each source: enough to see what is wrong, too few to fill a disk. The rest is counted."""

log = structlog.get_logger()


class Rejections:
    """One for each connection. A source is a bucket, a stream or a subject of `topology`, so there are few."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        """Since the process began, by source."""
        self._monotonic = monotonic
        self._minutes: dict[str, tuple[float, int]] = {}
        """By source: when its current minute began, and how many lines were logged in it."""

    def record(self, source: str, error: Exception, *, traceback: bool = False, **place: object) -> bool:
        """Count it, and log it while its source has not used up its lines of this minute.

        Args:
            source: where it came from.
            error: what is wrong with it.
            traceback: the fault may be ours: log where it happened.
            place: its `entry` (logs hide what is called `key`) or its `subject`. Never its content.

        Returns:
            Whether it was logged.
        """
        self.counts[source] += 1
        now = self._monotonic()
        began, lines = self._minutes.get(source, (now, 0))
        if now - began >= MINUTE_S:
            began, lines = now, 0
        self._minutes[source] = began, lines + 1
        if lines < LOGGED_PER_MINUTE:
            last = {"further": "counted and not logged, for a minute"} if lines + 1 == LOGGED_PER_MINUTE else {}
            log.error(
                "message_rejected",
                source=source,
                error=str(error) or type(error).__name__,
                exc_info=error if traceback else None,
                **place,
                **last,
            )
        return lines < LOGGED_PER_MINUTE

    async def answer_or_reject(self, service: str, subject: str, answering: Awaitable[bytes]) -> bytes:
        """Wait for the answer to a request; where there is none, a refusal that names the fault in the log."""
        try:
            return await answering
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked gets an answer
            incident = uuid4().hex[:12]
            if not self.record(subject, error, traceback=True, incident=incident):
                log.error("message_rejected", source=subject, incident=incident)
            return encode(ErrorReply(reason=f"internal error {incident}: see the log of {service}"))

    async def handle_or_reject(self, source: str, subject: str, handling: Awaitable[None]) -> None:
        """Wait until a message has been handled; one that cannot be ends nothing."""
        try:
            await handling
        except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this message alone
            self.record(source, error, traceback=True, subject=subject)
