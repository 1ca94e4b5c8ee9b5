"""Answers `billing.import`: imports a delivery's files from the object store, completely or not at all."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from services.billing.app.database_outage import NOTHING_IMPORTED
from services.billing.core.invoice_files.anomalies import parse_statistics, statistics_sql
from services.billing.core.invoice_files.delivery import (
    ChargesTaken,
    Delivery,
    Snapshot,
    StaleDelivery,
    combined_sha256,
)
from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.metrics import Metrics
from services.billing.ports import Interrupted, InvoiceReader, InvoiceStore, OpenInvoiceReader
from services.billing.settings import Settings
from shared.bus import topology
from shared.bus.ports import Bus
from shared.bus.reply import Outage, attempt, reply
from shared.errors import Rejected
from shared.file_digest import sha256_of_file
from shared.messages.codec import Unreadable
from shared.messages.invoices import (
    DeliveredFile,
    ImportAnswer,
    ImportRequest,
    ImportStatus,
    ImportStatusQuery,
    ImportStep,
    RowError,
    RunningImport,
)
from shared.messages.meter import ErrorReply
from shared.units import to_millis

T = TypeVar("T")

log = structlog.get_logger()

MAX_FILES = 1000
"""Files of one delivery: a month of the largest accounts has some dozens."""
TOO_MANY_SNAPSHOTS = "the files were imported; `spotinference invoice list` shows what counts"
SHUTTING_DOWN = Outage(
    (Interrupted,), "billing is shutting down: nothing was imported; try again when it runs", lambda _: "shutting down"
)


@dataclass
class _Running:
    """The import under way. The reading reports from its thread."""

    id: str
    source: str
    began: float
    """By the monotonic clock."""
    step: ImportStep = "fetching"
    rows: int = 0
    share: float | None = None

    def report(self, step: ImportStep, rows: int, share: float | None) -> None:
        self.step, self.rows, self.share = step, rows, share

    def describe(self, now: float) -> RunningImport:
        return RunningImport(
            id=self.id,
            source=self.source,
            step=self.step,
            rows=self.rows,
            share=self.share,
            seconds=now - self.began,
        )


class InvoiceImporter:
    """Imports one delivery at a time. Its files and the reader's data lie under `work` meanwhile."""

    def __init__(
        self,
        bus: Bus,
        store: InvoiceStore,
        open_reader: OpenInvoiceReader,
        settings: Settings,
        metrics: Metrics,
        *,
        work: Path,
        instance: str,
        now: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`instance` names this process; what an import needs on the disk lies in `work`."""
        self._bus = bus
        self._store = store
        self._open_reader = open_reader
        self._settings = settings
        self._metrics = metrics
        self._work = work
        self._instance = instance
        self._now = now
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._reading: InvoiceReader | None = None
        self._running: _Running | None = None

    async def answer(self, data: bytes) -> bytes:
        return await reply(data, ImportRequest, self.import_delivery, if_too_large=TOO_MANY_SNAPSHOTS)

    async def answer_status(self, data: bytes) -> bytes:
        """Answers `ImportStatusQuery`."""
        return await reply(data, ImportStatusQuery, self._status, if_too_large="name the source shorter")

    async def _status(self, _query: ImportStatusQuery) -> ImportStatus:
        running = None if self._running is None else self._running.describe(self._monotonic())
        return ImportStatus(instance=self._instance, running=running)

    async def import_delivery(self, request: ImportRequest) -> ImportAnswer | ErrorReply:
        """Import the delivery, or return why not: then no figure has changed."""
        answer = await self._import_exclusively(request)
        outcome = "refused" if isinstance(answer, ErrorReply) or answer.refusals else "imported"
        self._metrics.imports.labels(outcome).inc()
        log.info("invoice_files_processed", outcome=outcome, source=request.source, files=len(request.files))
        return answer

    async def settings_digest(self) -> str:
        """Return the digest of the present import settings."""
        return (await self._import_settings("")).digest

    async def reread(self, stale: StaleDelivery) -> str | None:
        """Read a delivery again with the present settings. Returns why that failed, or None."""
        # Round where necessary: what has been imported is not rejected for its decimals.
        request = ImportRequest(source=stale.source, files=stale.files, parts=True, round=True)
        answer = await self._import_exclusively(request, again=stale.number)
        return answer.reason if isinstance(answer, ErrorReply) else _first(answer.refusals)

    async def idle(self) -> None:
        """Return when no import is under way."""
        async with self._lock:
            return

    def interrupt(self) -> None:
        """Abort the import under way: nothing of it counts."""
        if self._reading is not None:
            self._reading.interrupt()

    async def _import_settings(self, source: str, *, rounds: bool = False) -> ImportSettings:
        mine = await self._store.past_resources() | frozenset(self._settings.fleet.machine_of)
        return ImportSettings(source=source, mine=mine, rates=self._settings.rates, rounds=rounds)

    async def _import_exclusively(
        self, request: ImportRequest, *, again: int | None = None
    ) -> ImportAnswer | ErrorReply:
        """Import while no other import runs. `again` is the number of the delivery that is read again."""
        async with self._lock:
            running = self._running = _Running(request.id, request.source, self._monotonic())
            try:
                return await attempt(
                    lambda: self._import(request, running, again=again), NOTHING_IMPORTED, SHUTTING_DOWN
                )
            finally:
                self._running = None

    async def _import(self, request: ImportRequest, running: _Running, *, again: int | None) -> ImportAnswer:
        _check(request)
        sha256 = combined_sha256([file.sha256 for file in request.files])
        refusals = _completeness_errors(request)
        if refusals:
            return ImportAnswer(sha256=sha256, refusals=refusals)
        with self._room() as room:
            files = [await self._fetched(file, room / f"{n}.file") for n, file in enumerate(request.files)]
            refusals = _cut_off(request, files)
            if refusals:
                return ImportAnswer(sha256=sha256, refusals=refusals)
            terms = await self._import_settings(request.source, rounds=request.round)
            reading = self._reading = self._open_reader(room, terms, running.report)
            try:
                await self._in_thread(lambda: reading.read(files, parts=request.parts or bool(request.wanted)))
                if reading.refusals:
                    return ImportAnswer(sha256=sha256, refusals=tuple(reading.refusals))
                now = self._now()
                facts = parse_statistics(await self._in_thread(lambda: reading.query(statistics_sql(to_millis(now)))))
                ((charges,),) = await self._in_thread(lambda: reading.query("SELECT count(*) FROM charges"))
                delivery = Delivery(
                    source=request.source,
                    snapshots=reading.snapshots,
                    rows=_counted(reading.rows, running, charges),
                    terms=terms.digest,
                    appends=request.source in self._settings.append_sources,
                    again=again,
                    facts=facts,
                    beside=frozenset(request.beside),
                )
                return ImportAnswer(sha256=sha256, snapshots=await self._store.deliver(delivery, now))
            except ChargesTaken as error:
                refusal = RowError(file=request.files[0].name, line=0, column="", reason=str(error))
                return ImportAnswer(sha256=sha256, refusals=(refusal,))
            finally:
                self._reading = None
                reading.close()

    @contextmanager
    def _room(self) -> Iterator[Path]:
        """Make a directory for this import; what a killed process left behind is removed."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=self._work) as room:
            yield Path(room)

    async def _fetched(self, file: DeliveredFile, path: Path) -> tuple[DeliveredFile, Path]:
        with path.open("wb") as into:
            try:
                is_stored = await self._bus.copy_object(topology.INVOICES, file.sha256, into)
            except Unreadable as error:
                raise Rejected(f"files: {error}: upload the file again") from error
            if not is_stored:
                raise Rejected(f"files: the object store has no {file.sha256!r}: upload the file")
        if await asyncio.to_thread(sha256_of_file, path) != file.sha256:
            raise Rejected("files: a file in the object store does not have the SHA-256 of its name: upload it again")
        return file, path

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run the work in a thread. If cancelled, interrupt it and wait for its end."""
        task = asyncio.create_task(asyncio.to_thread(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.interrupt()
            await asyncio.wait([task])
            raise


def _counted(
    rows: Callable[[Snapshot], Iterator[list[tuple[Any, ...]]]], running: _Running, charges: int
) -> Callable[[Snapshot], Iterator[list[tuple[Any, ...]]]]:
    """The same charges; `running` hears how many of all `charges` were handed on."""
    written = 0

    def counted(snapshot: Snapshot) -> Iterator[list[tuple[Any, ...]]]:
        nonlocal written
        for batch in rows(snapshot):
            written += len(batch)
            running.report("writing", written, written / charges)
            yield batch

    return counted


def _check(request: ImportRequest) -> None:
    """`Rejected` names the wrong field."""
    if not request.source.strip() or not request.source.isprintable():
        raise Rejected("source: must be a non-empty printable name, such as the provider's")
    if len(request.files) > MAX_FILES:
        raise Rejected(f"files: more than {MAX_FILES}: import a billing period at a time")
    if not request.files and not request.wanted:
        raise Rejected("files: must name at least one file")


def _completeness_errors(request: ImportRequest) -> tuple[RowError, ...]:
    """Return why the delivery is incomplete: a file of its manifest is missing, or a file is there twice."""
    names = {file.name for file in request.files}
    missing = "its manifest lists this file, but it is missing: wait until the delivery is complete"
    errors = [RowError(file=name, line=0, column="", reason=missing) for name in request.wanted if name not in names]
    first: dict[str, str] = {}
    for file in request.files:
        same = first.setdefault(file.sha256, file.name)
        if same is not file.name:
            reason = f"the same file as {same}: leave one of them out"
            errors.append(RowError(file=file.name, line=0, column="", reason=reason))
    return tuple(errors)


def _cut_off(request: ImportRequest, files: Sequence[tuple[DeliveredFile, Path]]) -> tuple[RowError, ...]:
    """Return the files whose size differs from their manifest."""
    errors: list[RowError] = []
    for file, path in files:
        size, expected_size = path.stat().st_size, request.sizes.get(file.name)
        if expected_size not in (None, size):
            reason = f"has {size:,} bytes, but its manifest says {expected_size:,}: wait until the delivery is complete"
            errors.append(RowError(file=file.name, line=0, column="", reason=reason))
    return tuple(errors)


def _first(refusals: Sequence[RowError]) -> str | None:
    return f"{refusals[0].file}:{refusals[0].line} {refusals[0].column}: {refusals[0].reason}" if refusals else None
