"""What billing's use cases need of the world outside: its database, invoice files and running bills.

Every store raises what `shared.database.DATABASE_ERRORS` lists while the database is down.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from services.billing.core.allocation.accrual import BillReading
from services.billing.core.allocation.fleet_history import KeptFleet
from services.billing.core.day_records import DayRecords
from services.billing.core.invoice_files.delivery import Delivery, Snapshot, StaleDelivery
from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.core.reconciliation import BilledAmount, Payable
from services.billing.core.reports.bill_coverage import LastCharge
from services.billing.core.revisions.revision import RevisionInputs, StoredRevision
from services.billing.core.utc_time import Window
from shared.messages.billing import Band, DayReport
from shared.messages.invoices import DeliveredFile, Imported, ImportStep, PayableNote, RowError, SnapshotSummary
from shared.messages.waker import Transition

OnProgress = Callable[[ImportStep, int, float | None], None]
"""Called with the step, the rows so far and the share of the step that is done, if that is known."""


class Interrupted(Exception):
    """Reading the files was interrupted."""


class Unstorable(Exception):
    """The database has no column for one of the values; trying again does not help."""


class FileSource(Protocol):
    """A file, a folder or a prefix of an object store. Each call blocks and raises `Rejected` with what is wrong."""

    def list_files(self) -> dict[str, str]:
        """Return the files by name, each with a version that changes when the file does."""
        ...

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""
        ...

    def fetch(self, name: str, into: Path) -> Path:
        """Return the file's path on this host. A file that is elsewhere is copied to `into`."""
        ...


class InvoiceReader(Protocol):
    """Reads the files of one delivery: first `read`, then the rest. `interrupt` may be called from any thread."""

    @property
    def snapshots(self) -> Sequence[Snapshot]:
        """The charges by issuer, account, billing period and currency; none if any row was rejected."""
        ...

    @property
    def refusals(self) -> Sequence[RowError]:
        """What is wrong with the files."""
        ...

    def read(self, files: Sequence[tuple[DeliveredFile, Path]], *, parts: bool = False) -> None:
        """Read the files. `parts`: together they are one snapshot, so equal charges are not duplicates."""
        ...

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of SQL over the table `charges`."""
        ...

    def rows(self, snapshot: Snapshot) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the snapshot's charges in batches."""
        ...

    def interrupt(self) -> None:
        """Make the call under way raise `Interrupted`."""
        ...

    def close(self) -> None:
        """Release the memory and the disk space."""
        ...


OpenInvoiceReader = Callable[[Path, ImportSettings, OnProgress], InvoiceReader]
"""Makes a reader that works in the directory."""


class InvoiceStore(Protocol):
    """The imported charges."""

    async def deliver(self, delivery: Delivery, now: float) -> tuple[SnapshotSummary, ...]:
        """Make all of the delivery count, or none of it, else raise `ChargesTaken`."""
        ...

    async def past_resources(self) -> frozenset[str]:
        """Return the ids of all machines that the books know, configured or not."""
        ...

    async def list_stale(self, digest: str) -> tuple[StaleDelivery, ...]:
        """Return the deliveries that count and were read with other import settings than those of the digest."""
        ...

    async def list_snapshots(self, not_reread: Mapping[int, str]) -> tuple[Imported, ...]:
        """Return all snapshots, the newest first. `not_reread`: why deliveries could not be read again, by number."""
        ...


class PayableStore(Protocol):
    """The payable amounts of invoices."""

    async def invoices(self) -> tuple[list[BilledAmount], list[Payable]]:
        """Return the charges of every invoice and the recorded amounts, the oldest first."""
        ...

    async def record(self, note: PayableNote, now: float) -> None:
        """Record an amount, or raise `Rejected` if no invoice, or more than one, matches it."""
        ...


class DayStore(Protocol):
    """What is known about a day."""

    async def read(self, day: Window) -> DayRecords:
        """Return all of it, read at one moment."""
        ...

    async def fleets(self, window: Window) -> Sequence[KeptFleet]:
        """Return what the configuration said in the window, in order."""
        ...

    async def reaches(self, window: Window) -> list[LastCharge]:
        """Return how far the charges for use that touch the window reach, by source and resource."""
        ...


class DayFingerprints(Protocol):
    """Short texts, one per day, that change whenever a change in the database may change the day's report."""

    async def compute(self, days: Sequence[str]) -> dict[str, str]:
        """Return each day's fingerprint."""
        ...


class RevisionStore(Protocol):
    """Every report that was ever given out, with its inputs."""

    async def newest(self, day: str) -> StoredRevision | None:
        """Return the day's last revision."""
        ...

    async def save(self, report: DayReport, inputs: RevisionInputs, now: float) -> None:
        """Add a revision."""
        ...


class BandBasis(msgspec.Struct, frozen=True, kw_only=True):
    """A price band, and the revision of each day that it was made from."""

    band: Band
    revisions: dict[str, int]


class BandStore(Protocol):
    """The price bands; they are added once a day and never changed."""

    async def has_bands_for(self, day: str) -> bool:
        """Return whether the day's bands have been made, changed or not."""
        ...

    async def add(self, day: str, made: Sequence[BandBasis], now: float) -> bool:
        """Add all new bands of a day. False: the day's bands had been made before, and nothing was added."""
        ...

    async def in_force(self, day: str) -> dict[str, Band]:
        """Return the band of each model that has one by that day."""
        ...

    async def since(self, first: str, to: str) -> Mapping[str, Sequence[Band]]:
        """Return by model, in order, the bands that were in force on any of the days."""
        ...


class TransitionStore(Protocol):
    """The machines' state transitions."""

    async def newest(self) -> float | None:
        """Return the time of the newest transition in Unix seconds."""
        ...

    async def record(self, transitions: Sequence[Transition]) -> None:
        """Add the transitions that are new. Raises `Unstorable` and adds none if one cannot be stored."""
        ...


class RunningBill(Protocol):
    """A provider that reports what each resource has cost so far."""

    provider: str

    async def cumulative(self) -> dict[str, int]:
        """Return the cost by resource in units of money, or raise `HyperstackError`."""
        ...


class AccrualStore(Protocol):
    """The readings of running bills, and the hourly costs derived from them."""

    async def last_readings(self) -> dict[str, BillReading]:
        """Return the last reading of each resource."""
        ...

    async def add_readings(
        self, readings: Mapping[str, BillReading], machine_of: Mapping[str, str], basis: str
    ) -> None:
        """Add the readings, all or none. A reading older than the last one changes nothing."""
        ...
