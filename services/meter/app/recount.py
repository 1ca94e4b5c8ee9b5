"""Counts quarantined messages that can be counted now: on request, and when an unknown name becomes known."""

from collections.abc import Sequence

import structlog

from services.meter.app.database_outage import DATABASE_DOWN
from services.meter.app.known_names import KnownNames
from services.meter.app.recorder import Recorder
from services.meter.core.batch import QuarantineKind
from services.meter.core.recount import QuarantinedMessage
from services.meter.ports import NAMES_PER_QUERY, QuarantineStore
from shared.bus.reply import reply
from shared.errors import Rejected
from shared.messages.meter import Recounted, RecountQuery

log = structlog.get_logger()


class QuarantineRecounter:
    """Each event counts once, however often it is recounted. Sealed days take nothing more."""

    def __init__(self, store: QuarantineStore, names: KnownNames, recorder: Recorder, *, batch_size: int) -> None:
        self._store = store
        self._names = names
        self._recorder = recorder
        self._batch_size = batch_size
        self._new_names: set[str] = set()
        """Names that became known and whose messages are not recounted yet."""

    async def handle_recount(self, data: bytes) -> bytes:
        return await reply(data, RecountQuery, self._recount_page, DATABASE_DOWN, if_too_large="try again")

    async def recount_new_names(self) -> None:
        """Count the messages of names that became known. Raises `BusUnavailable` or one of `DATABASE_ERRORS`."""
        self._new_names |= self._names.pop_new_names()
        while self._new_names:
            names = sorted(self._new_names)[:NAMES_PER_QUERY]
            next_page: str | None = ""
            while next_page is not None:
                messages, next_page = await self._store.list_messages(next_page, self._batch_size, names=names)
                counted, _ = await self._count(messages)
                if counted:
                    log.warning("quarantine_recounted", counted=counted, reason="their key or source is known now")
            self._new_names.difference_update(names)

    async def _recount_page(self, query: RecountQuery) -> Recounted:
        kind = None if query.reason is None else _parse_kind(query.reason)
        messages, next_page = await self._store.list_messages(query.after, self._batch_size, kind=kind)
        counted, repeated = await self._count(messages)
        left = len(messages) - counted - repeated
        return Recounted(counted=counted, repeated=repeated, left=left, next=next_page)

    async def _count(self, messages: Sequence[QuarantinedMessage]) -> tuple[int, int]:
        if not messages:
            return 0, 0
        result = await self._recorder.record_quarantined(messages)
        await self._recorder.publish_progress(result)
        return result.counted, result.repeated


def _parse_kind(reason: str) -> QuarantineKind:
    try:
        return QuarantineKind(reason)
    except ValueError:
        raise Rejected(f"reason: expected one of {', '.join(QuarantineKind)}, got {reason!r}") from None
