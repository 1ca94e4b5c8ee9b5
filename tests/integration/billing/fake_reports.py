"""A shelf of made-up reports, and a bus that dies at a chosen moment."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from services.billing.core.reports.cost_lines import CostLines
from shared.bus.memory import MemoryBus
from shared.bus.ports import Received
from shared.bus.subjects import BILLING_PUBLISHED
from shared.bus.topology import BOOKS_FILES, REPORTS, Bucket, ObjectStore
from shared.errors import Rejected
from shared.messages.billing import DayReport, Published
from shared.messages.codec import decode
from tests.unit.billing.report_builders import report

TODAY = "2026-05-04"
YESTERDAY = "2026-05-03"


@dataclass
class FakeReportCache:
    """What the publisher and the maker of bands see of the books."""

    reports_by_day: dict[str, DayReport] = field(default_factory=dict)
    day: str = TODAY
    requested_days: list[str] = field(default_factory=list)
    refuses: bool = False

    def today(self) -> str:
        return self.day

    def put(self, *reports: DayReport) -> None:
        self.reports_by_day.update((each.day, each) for each in reports)

    async def iterate(self, days: Sequence[str]) -> AsyncIterator[DayReport]:
        self.requested_days = list(days)
        for day in days:
            if self.refuses:
                raise Rejected("the meter does not answer: ask again when it runs")
            yield self.reports_by_day.get(day) or report(day, None, 0)

    async def explain(self, day: str) -> tuple[DayReport, CostLines]:
        return self.reports_by_day[day], CostLines()

    async def reports(self, days: Sequence[str]) -> list[DayReport]:
        return [reports_by_day async for reports_by_day in self.iterate(days)]


class Killed(BaseException):
    """The process is gone: nothing of it runs on."""


class DyingBus(MemoryBus):
    """Dies at the `dies_at`th change: before it takes effect, or right after it."""

    def __init__(self, dies_at: int | None = None, *, after: bool = False) -> None:
        super().__init__()
        self.dies_at = dies_at
        self.after = after
        self.changes = 0
        self.announced: list[Published] = []

    async def subscribe_announcements(self) -> None:
        async def on_published(message: Received) -> None:
            self.announced.append(decode(message.data, Published))

        await self.subscribe(BILLING_PUBLISHED, on_published)

    def files(self) -> dict[str, bytes]:
        return {name: data for (store, name), data in self._objects.items() if store == BOOKS_FILES.name}

    async def published_by_key(self) -> dict[str, Published]:
        entries = (await self.entries(REPORTS)).items()
        return {key: decode(entry.value, Published) for key, entry in entries if key.startswith("published.")}

    async def put_object(self, store: ObjectStore, name: str, data: object) -> None:
        self._step(after=False)
        await super().put_object(store, name, data)  # type: ignore[arg-type]  # whatever the bus takes
        self._step(after=True)

    async def publish_volatile(self, subject: str, data: bytes) -> None:
        self._step(after=False)
        await super().publish_volatile(subject, data)
        self._step(after=True)

    async def put(self, bucket: Bucket, key: str, value: bytes) -> int:
        self._step(after=False)
        revision = await super().put(bucket, key, value)
        self._step(after=True)
        return revision

    def _step(self, *, after: bool) -> None:
        self.changes += not after
        if self.changes == self.dies_at and after == self.after:
            raise Killed
