"""Counts what is in quarantine and can be counted now: by order, and by itself when an unknown name becomes known."""

from collections.abc import Sequence
from typing import get_args

import structlog

from services.meter.adapters.quarantine_store import VALUES_AT_ONCE, SqlQuarantineStore
from services.meter.app.known_names import KnownNames
from services.meter.app.recorder import Recorder
from services.meter.core.batch import QuarantineKind
from services.meter.core.recount import QuarantinedMessage
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import ErrorReply, Recounted, RecountQuery

log = structlog.get_logger()


class QuarantineRecounter:
    """Each event counts once, however often it is counted again. Days that are sealed take nothing more."""

    def __init__(self, quarantine: SqlQuarantineStore, names: KnownNames, recorder: Recorder, *, batch: int) -> None:
        self._quarantine = quarantine
        self._names = names
        self._recorder = recorder
        self._batch = batch
        self._waiting: set[str] = set()

    async def answer(self, data: bytes) -> bytes:
        """One page, for `RecountQuery`."""
        try:
            query = decode(data, RecountQuery)
            reason: QuarantineKind | None = next(
                (kind for kind in get_args(QuarantineKind) if kind == query.reason), None
            )
            if query.reason is not None and reason is None:
                return encode(ErrorReply(reason=f"reason: expected one of {', '.join(get_args(QuarantineKind))}"))
            held, following = await self._quarantine.held(query.after, self._batch, kind=reason)
            counted, repeated = await self._count(held)
        except Unreadable as error:
            return encode(ErrorReply(reason=str(error)))
        except BusUnavailable as error:
            return encode(ErrorReply(reason=f"the keys and sources cannot be read: {error}"))
        except DATABASE_ERRORS as error:
            log.warning("the quarantine cannot be counted again", reason=describe(error))
            return encode(ErrorReply(reason="the ledger's database does not answer: ask again later"))
        left = len(held) - counted - repeated
        return encode(Recounted(counted=counted, repeated=repeated, left=left, next=following))

    async def count_known(self) -> None:
        """What names that have become known have there. `BusUnavailable`, or one of `shared.database.AWAY`."""
        self._waiting |= self._names.appeared()
        while self._waiting:
            some = sorted(self._waiting)[:VALUES_AT_ONCE]
            following: str | None = ""
            while following is not None:
                held, following = await self._quarantine.held(following, self._batch, names=some)
                counted, _ = await self._count(held)
                if counted:
                    log.warning("quarantine_recounted", counted=counted, reason="their key or source is known now")
            self._waiting.difference_update(some)

    async def _count(self, held: Sequence[QuarantinedMessage]) -> tuple[int, int]:
        if not held:
            return 0, 0
        recorded = await self._recorder.record_again(held)
        try:
            await self._recorder.tell(recorded)
        except (BusUnavailable, *DATABASE_ERRORS) as error:
            log.warning("committed and not told yet", reason=describe(error))
        return recorded.counted, recorded.repeated
