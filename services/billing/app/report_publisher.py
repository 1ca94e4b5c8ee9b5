"""Publishes the reports of days: stores the files of each new revision, then announces it on the bus."""

import asyncio
from collections.abc import Callable, Mapping

import structlog
from msgspec.structs import replace

from services.billing.app.public_books import PublicBooks
from services.billing.app.report_cache import ReportCache
from services.billing.core.pricing.bands import days_before
from services.billing.core.reports.cost_lines import to_explanations
from services.billing.metrics import Metrics
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable, Rejected
from shared.messages.billing import DayReport, Published
from shared.messages.codec import Unreadable, decode, encode

log = structlog.get_logger()

DAYS = 62
"""How many days back changes are published: two whole months."""

RenderFiles = Callable[[DayReport], Mapping[str, bytes]]
"""Returns a report's files by format."""


class ReportPublisher:
    """Publishes revisions. The announcement comes last: if the process dies earlier, all is repeated."""

    def __init__(
        self,
        bus: Bus,
        report_cache: ReportCache,
        render: RenderFiles,
        metrics: Metrics,
        *,
        now: Callable[[], float],
        public: PublicBooks | None = None,
    ) -> None:
        self._bus = bus
        self._report_cache = report_cache
        self._render = render
        self._metrics = metrics
        self._now = now
        self._public = public
        self._seen: dict[str, int] = {}
        """By day, the revision that is completely published."""

    async def publish_changed(self) -> str | None:
        """Publish what is new in the last days, yesterday first.

        Returns the days that failed and why the first one did. Raises `BusUnavailable` or what `DATABASE_ERRORS` lists.
        """
        days = days_before(self._report_cache.today(), DAYS)
        self._seen = {day: revision for day, revision in self._seen.items() if day in days}
        failed: dict[str, str] = {}
        made: list[DayReport] = []
        try:
            async for report in self._report_cache.iterate(days[::-1]):
                made.append(report)
                if self._seen.get(report.day) == report.revision and not report.failed:
                    continue
                try:
                    if report.failed:
                        failed[report.day] = report.reason or ""
                    elif await self._publish(report):
                        self._seen[report.day] = report.revision
                except (BusUnavailable, *DATABASE_ERRORS):
                    raise
                except Exception as error:
                    self._metrics.unpublished.inc()
                    log.exception("publication_failed", day=report.day, revision=report.revision)
                    failed[report.day] = describe(error)
            if self._public is not None:
                await self._public.publish(made)
        except Rejected as error:
            self._metrics.unpublished.inc()
            log.warning("publication_postponed", reason=str(error))
        return f"{', '.join(failed)}: {next(iter(failed.values()))}" if failed else None

    async def _publish(self, report: DayReport) -> bool:
        """Publish the revision. Returns whether nothing is left to do."""
        known = await last_published(self._bus, report.day)
        if known is not None and known.revision >= report.revision:
            self._compare(known, report)
            return True
        if known is None and report.state is None:
            return True  # nothing is known about the day, and nothing was published
        report, lines = await self._report_cache.explain(report.day)  # an open day may have a newer revision by now
        report = replace(report, explanations=to_explanations(lines))
        files = await self._files(report)
        if files is None:
            return False
        for name, content in files.items():
            # A stored file was published: it is never replaced.
            if await self._bus.get_object(topology.BOOKS_FILES, name) is None:
                await self._bus.put_object(topology.BOOKS_FILES, name, content)
        published = Published(
            day=report.day,
            revision=report.revision,
            state=report.state,
            usd_per_mtok=report.usd_per_mtok,
            change=report.change,
            files=tuple(files),
            at=self._now(),
        )
        await self._bus.publish_volatile(subjects.BILLING_PUBLISHED, encode(published))
        await self._bus.put(topology.REPORTS, subjects.published_key(report.day), encode(published))
        self._metrics.published.inc()
        log.info("report_published", day=report.day, revision=report.revision, state=report.state, change=report.change)
        return True

    def _compare(self, known: Published, report: DayReport) -> None:
        describe = (report.revision, report.state, report.usd_per_mtok)
        if (known.revision, known.state, known.usd_per_mtok) != describe:
            self._metrics.unpublished.inc()
            log.error(
                "published_report_differs",
                hint="was the database restored from a copy?",
                day=report.day,
                revision=report.revision,
                published=known.revision,
            )

    async def _files(self, report: DayReport) -> dict[str, bytes] | None:
        """Return the files by their names in the object store; None if they cannot be made."""
        try:
            render = await asyncio.to_thread(self._render, report)
        except Exception:
            # A name that a format cannot show must not stop the budget gate.
            self._metrics.unpublished.inc()
            log.exception("report_files_failed", day=report.day, revision=report.revision)
            return None
        return {f"{report.day}.{report.revision}.{form}": content for form, content in render.items()}


async def last_published(bus: Bus, day: str) -> Published | None:
    """Return the day's last publication. An unreadable entry counts as none."""
    entry = await bus.get(topology.REPORTS, subjects.published_key(day))
    try:
        return None if entry is None else decode(entry.value, Published)
    except Unreadable as error:
        log.error("published_entry_unreadable", day=day, error=str(error))
        return None


async def published_revision(bus: Bus, day: str) -> int:
    """Return the number of the day's last published revision; 0 if there is none.

    Raises:
        Rejected: the bus does not answer.
    """
    try:
        published = await last_published(bus, day)
    except BusUnavailable as error:
        raise Rejected("the bus does not answer: ask again later") from error
    return 0 if published is None else published.revision
