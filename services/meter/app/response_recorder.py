"""Records how gateways answered: whatever the bucket `responses` says, and answers `meter.responses`.

Every replica does the same. The ledger keeps the highest count of each kind, so repetitions change nothing.
"""

from collections.abc import Callable

from services.meter.app.database_outage import DATABASE_DOWN
from services.meter.core.response_sums import build_responses, requested_span, validated
from services.meter.ports import ResponseStore
from shared.bus.ports import Bus, Changed, Handle, WatchEvent
from shared.bus.reply import reply
from shared.bus.topology import RESPONSES
from shared.messages.codec import Unreadable, decode
from shared.messages.responses import HourResponses, Responses, ResponsesQuery

MESSAGES = 100
"""Messages in one transaction."""
MAX_PENDING = 20_000
"""Messages that wait for the database: more than all gateways write in the time that the bus keeps them."""


class ResponseRecorder:
    """`flush` and `fold` are to be called periodically. Both raise one of `DATABASE_ERRORS`; the next call goes on."""

    def __init__(self, bus: Bus, store: ResponseStore, now: Callable[[], float]) -> None:
        self._bus = bus
        self._store = store
        self._now = now
        self._pending: dict[str, HourResponses] = {}
        self._handle: Handle | None = None

    async def start(self) -> None:
        self._handle = await self._bus.watch(RESPONSES, self._on_event)

    async def stop(self) -> None:
        if self._handle is not None:
            await self._handle.stop()

    async def read_again(self) -> None:
        """Record everything that the bus has, for a ledger that went back. Raises `BusUnavailable`."""
        for key, entry in (await self._bus.entries(RESPONSES)).items():
            self._add(key, entry.value)

    async def flush(self) -> None:
        """Store what arrived since the last flush."""
        while self._pending:
            some = dict(list(self._pending.items())[:MESSAGES])
            await self._store.record(list(some.values()))
            self._pending = {key: kept for key, kept in self._pending.items() if some.get(key) is not kept}

    async def fold(self) -> None:
        """Sum up the days that are old."""
        await self._store.fold(self._now())

    async def handle_responses(self, data: bytes) -> bytes:
        """Answer a `ResponsesQuery`."""

        async def read(query: ResponsesQuery) -> Responses:
            return build_responses(query, await self._store.read(requested_span(query)))

        fix = "ask for fewer dimensions, or fewer days"
        return await reply(data, ResponsesQuery, read, DATABASE_DOWN, if_too_large=fix)

    def _on_event(self, event: WatchEvent) -> None:
        if isinstance(event, Changed) and event.value is not None:
            self._add(event.key, event.value)

    def _add(self, key: str, value: bytes) -> None:
        try:
            message = validated(key, decode(value, HourResponses), self._now())
            if key not in self._pending and len(self._pending) >= MAX_PENDING:
                raise Unreadable(f"more than {MAX_PENDING} hours wait for the database")
        except Unreadable as error:
            self._bus.rejections.record(RESPONSES.name, error, entry=key)
        else:
            self._pending[key] = message
