"""Handles messages that cannot be processed: each is rejected alone, counted by source, logged at a bounded rate."""

from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import uuid4

import structlog

from shared.bus.subjects import matches
from shared.messages.codec import Unreadable, encode
from shared.messages.meter import ErrorReply
from shared.units import MINUTE_S

LOGGED_PER_MINUTE = 10
"""Log lines for each source: enough to see what is wrong, too few to fill a disk. Further messages are counted."""

log = structlog.get_logger()


class Rejections:
    """The rejected messages of one connection. A source is a bucket, a stream or a subject, so there are few."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        """Rejected messages since the process began, by source."""
        self._monotonic = monotonic
        self._minutes: dict[str, tuple[float, int]] = {}
        """By source: when its current minute began, and how many messages it rejected since."""

    def record(self, source: str, error: Exception, *, traceback: bool = False, **place: object) -> bool:
        """Count a rejected message, and log it unless its source has used up its lines of this minute.

        Args:
            source: Where the message came from.
            error: What is wrong with it.
            traceback: Log the traceback too, because the fault may be ours.
            place: Its `entry` (logs redact a field named `key`) or its `subject`. Never its content.

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

    def is_published_to(self, pattern: str, subject: str) -> bool:
        """Whether a message was published under `pattern`; one that was not is rejected.

        A user can have the server deliver stored messages anywhere, but they keep their subject.
        """
        if matches(pattern, subject):
            return True
        self.record(pattern, Unreadable("it was published under another subject"), subject=subject)
        return False

    async def answer_or_reject(self, service: str, subject: str, answering: Awaitable[bytes]) -> bytes:
        """Return the answer to a request, or an `ErrorReply` that names the fault in the log."""
        try:
            return await answering
        except Exception as error:  # noqa: BLE001 - the requester gets an answer, whatever fails
            incident = uuid4().hex[:12]
            if not self.record(subject, error, traceback=True, incident=incident):
                log.error("message_rejected", source=subject, incident=incident)
            return encode(ErrorReply(reason=f"internal error {incident}: see the log of {service}"))

    async def handle_or_reject(self, source: str, subject: str, handling: Awaitable[None]) -> None:
        """Wait until a message has been handled. A failure rejects this message alone."""
        try:
            await handling
        except Exception as error:  # noqa: BLE001 - any failure concerns this message alone
            self.record(source, error, traceback=True, subject=subject)
