"""Answers `billing.import`: an invoice file from the object store into the books, whole or not at all."""

import asyncio
import hashlib
from collections.abc import Callable

import structlog

from services.billing.adapters.books import Books, Delivery, Taken
from services.billing.core.focus import read
from services.billing.metrics import Metrics
from services.billing.settings import Settings
from shared.bus import topology
from shared.bus.ports import Bus
from shared.database import AWAY, told
from shared.errors import BusUnavailable
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.invoices import ImportAnswer, ImportRequest, Refusal
from shared.messages.meter import Refused

log = structlog.get_logger()


class Imports:
    """One file at a time: each is held in memory whole."""

    def __init__(
        self, bus: Bus, books: Books, settings: Settings, metrics: Metrics, *, now: Callable[[], float]
    ) -> None:
        self._bus = bus
        self._books = books
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._one = asyncio.Lock()

    async def answer(self, data: bytes) -> bytes:
        async with self._one:
            answer = await self._answer(data)
        outcome = "refused" if isinstance(answer, Refused) or answer.refusals else "imported"
        self._metrics.imports.labels(outcome).inc()
        log.info("invoice file", outcome=outcome)
        return encode(answer)

    async def idle(self) -> None:
        """Returns when no import is under way."""
        async with self._one:
            return

    async def _answer(self, data: bytes) -> ImportAnswer | Refused:
        try:
            request = decode(data, ImportRequest)
            if not request.source.strip() or not request.source.isprintable():
                return Refused(reason="source: must be a non-empty printable name, such as the provider's")
            if len(request.files) != 1:
                return Refused(reason="files: import them one by one")
            named = request.files[0]
            file = await self._bus.get_object(topology.INVOICES, named.sha256)
        except (Unreadable, BusUnavailable) as error:
            return Refused(reason=str(error))
        if file is None:
            return Refused(reason=f"files: nothing named {named.sha256!r} in the object store: put it there")
        sha256 = hashlib.sha256(file).hexdigest()
        if sha256 != named.sha256:
            return Refused(reason="files: must be named by their SHA-256, and one is not: put the file there again")
        return await self._import(request, named.name, file, sha256)

    async def _import(self, request: ImportRequest, name: str, file: bytes, sha256: str) -> ImportAnswer | Refused:
        found = await asyncio.to_thread(read, file, name)
        if found.refusals:
            return ImportAnswer(sha256=sha256, refusals=found.refusals)
        delivery = Delivery(
            source=request.source,
            file_name=name,
            sha256=sha256,
            snapshots=found.snapshots,
            appends=request.source in self._settings.append_sources,
        )
        try:
            snapshots = await self._books.deliver(delivery, self._now())
        except Taken as error:
            refusal = Refusal(file=name, line=0, column="", reason=str(error))
            return ImportAnswer(sha256=sha256, refusals=(refusal,))
        except AWAY as error:
            log.warning("the books cannot be written", reason=told(error))
            return Refused(reason="the books' database does not answer: nothing was imported; try again later")
        return ImportAnswer(sha256=sha256, snapshots=snapshots)
