"""What the use cases need from the ledger's database and from the engines.

Every method that reads or writes the database raises one of `shared.database.DATABASE_ERRORS` while the database is
down; nothing is written then.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from services.meter.core.batch import Batch, QuarantineKind
from services.meter.core.completeness import Heartbeat, Source
from services.meter.core.day import Day
from services.meter.core.day_audit import LedgerDay
from services.meter.core.day_tokens import DayFacts
from services.meter.core.engine_counters import EngineCounters
from services.meter.core.engine_readings import EngineReading
from services.meter.core.fleet_event import FleetEvent
from services.meter.core.performance import PerformanceGroup
from services.meter.core.record_result import RecordResult
from services.meter.core.recount import QuarantinedMessage
from services.meter.core.response_sums import Group, ResponseSpan
from services.meter.core.rollups import MonthKey
from shared.key_records import SavedKey
from shared.messages.meter import Confirmed, DeclareLost, Gaps, History, HistoryQuery
from shared.messages.meter_audit import Audit
from shared.messages.meter_figures import FiguresQuery
from shared.messages.responses import HourResponses

NAMES_PER_QUERY = 1000
"""Values in one IN list: both databases take about 32,000 parameters in a statement."""


class ScrapeFailed(Exception):
    """An engine's counters could not be read; the text says why."""


class ExportFailed(Exception):
    """A collector did not take a request; the text says why."""

    def __init__(self, reason: str, *, can_retry: bool) -> None:
        super().__init__(reason)
        self.can_retry = can_retry


class Ledger(Protocol):
    """The usage events, each exactly once, and the sums of them."""

    async def record(self, batch: Batch, *, from_quarantine: bool = False) -> RecordResult:
        """Commit a batch; events that the ledger already has are not counted again."""

    async def read_marks(self, since: float) -> dict[str, int]:
        """Return the mark of each source of which something arrived after `since` (Unix seconds)."""

    async def read_months(self, months: Collection[str]) -> dict[MonthKey, int]:
        """Return the tokens of every key that has any in these months (`YYYY-MM`)."""

    async def read_day(
        self, day: Day, by: Sequence[str], *, busy: bool, keys: Collection[str] = (), active_since: float = 0.0
    ) -> DayFacts:
        """Return what the ledger knows of a day; `Rejected` if the answer would be too large."""

    async def read_history(self, query: HistoryQuery) -> History:
        """Return one page of requests."""


class PerformanceReader(Protocol):
    """The service's throughput and latency."""

    async def read(self, query: FiguresQuery, hours: tuple[int, int]) -> dict[tuple[str, ...], PerformanceGroup]:
        """Return one group per combination of the query's dimensions; `hours` is the range, end exclusive."""


class GapStore(Protocol):
    """What is missing from the sources."""

    async def record_heartbeats(self, heartbeats: Mapping[str, Heartbeat]) -> None:
        """Store the latest heartbeat of each source."""

    async def list_gaps(self, now: float) -> Gaps:
        """Return everything that is missing or was declared lost, newest first."""

    async def declare_lost(self, order: DeclareLost, now: float) -> None:
        """Record that missing events are lost; `Rejected` unless all of them are missing."""


class ResponseStore(Protocol):
    """How gateways answered."""

    async def record(self, messages: Sequence[HourResponses]) -> None:
        """Raise the counts to those of the messages."""

    async def fold(self, now: float) -> None:
        """Replace the hours of old days by the day's sums."""

    async def read(self, span: ResponseSpan) -> Mapping[Group, int]:
        """Return the responses by group; `Rejected` if there are too many groups."""


class QuarantineStore(Protocol):
    """Messages that could not be counted, and the names that an event needs to be counted."""

    async def list_messages(
        self, after: str, limit: int, *, kind: QuarantineKind | None = None, names: Collection[str] | None = None
    ) -> tuple[list[QuarantinedMessage], str | None]:
        """Return a page of messages that are not counted yet, and where the next page begins.

        `names`: only messages whose unknown key or source is one of these, at most `NAMES_PER_QUERY`.
        """

    async def known_names(self, keys: Collection[str], sources: Collection[str]) -> tuple[set[str], set[str]]:
        """Return which of these keys and which of these sources any meter has known before."""

    async def remember_keys(self, keys: Iterable[str]) -> None:
        """Store the ids of keys that exist: should the bus lose them, their usage still counts."""


class KeyStore(Protocol):
    """The copy of the API keys' records. What ended in it stays so."""

    async def read(self) -> list[SavedKey]:
        """Return the whole copy."""

    async def merge(self, keys: Collection[SavedKey]) -> None:
        """Add keys to the copy."""


class ConfirmedMarks(Protocol):
    """What the ledger has confirmed to the gateways and no longer has, as after a restore from an older copy."""

    async def newest_received_at(self) -> float:
        """Return when the newest event arrived (Unix seconds), which is the age of a restored copy."""

    async def compare(self, confirmed: Sequence[Confirmed], *, newest_at: float | None = None) -> dict[str, int]:
        """Record which sources the ledger is behind; return how many events each of these lacks."""

    async def sources_behind(self, now: float) -> list[Source]:
        """Return the sources whose missing confirmed events the stream may still have."""

    async def record_searched(self, confirmed: Mapping[str, int]) -> None:
        """Record that the stream was searched for each source's events up to these numbers."""


class AuditStore(Protocol):
    """The facts that a day's audit is made from, and the audits."""

    async def load_day(self, day: Day) -> LedgerDay:
        """Return what the ledger has of a day."""

    async def load_audit(self, day: str) -> Audit | None:
        """Return the day's latest audit."""

    async def final_event_counts(self, since: str) -> dict[str, int]:
        """Return the days from `since` on whose latest audit is final, each with the events that it counted."""

    async def count_events(self, day: Day) -> int:
        """Return the day's events, from the sums."""

    async def save_audit(self, audit: Audit) -> None:
        """Store a day's audit in place of the one before."""


class EngineStore(Protocol):
    """What engines counted, and what happened to their machines."""

    async def record_reading(self, reading: EngineReading, day: Day, *, is_unmanaged: bool) -> bool:
        """Store a reading; False if it is no newer than the stored one, which stays."""

    async def record_failure(self, machine: str, day: Day, reason: str) -> None:
        """Store that an engine's counters could not be read."""

    async def record_events(self, events: Mapping[str, FleetEvent]) -> None:
        """Store events by an id of what each came from, so that a repeated one is stored once."""

    async def newest_journal_event_at(self) -> float | None:
        """Return when the newest event of the fleet's journal happened (Unix seconds); None: there is none."""

    async def delete_old_events(self, now: float) -> None:
        """Delete events that are too old to explain anything."""


class EngineScraper(Protocol):
    """Reads engines' counters over HTTP."""

    async def read(self, endpoint: str, machine: str = "") -> EngineCounters:
        """Return the engine's counters, or raise `ScrapeFailed`."""

    async def close(self) -> None: ...


class TelemetrySink(Protocol):
    """Sends OpenTelemetry's requests."""

    async def send(self, path: str, body: bytes) -> int:
        """Return how many spans of the request were refused, or raise `ExportFailed`. Bounded in time."""
