"""A delivery of invoice files: what was read from it, and which part of it counts."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from services.billing.core.cost_row import SnapshotKey
from services.billing.core.invoice_files.anomalies import SnapshotStatistics
from shared.messages.invoices import DeliveredFile


def combined_sha256(hashes: Sequence[str]) -> str:
    """Return the hash of one file as it is, and of several files the hash of their sorted hashes."""
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All charges of one key and currency in a delivery."""

    key: SnapshotKey
    currency: str
    rows: int
    """As delivered."""
    billed: Decimal
    residue: Decimal | None
    """What was delivered less `billed`; None where no cost was rounded."""
    invoices: Mapping[str, Decimal]
    """Billed by invoice; an empty id is that of charges without one."""
    files: tuple[DeliveredFile, ...]
    """The files with its charges."""

    @property
    def sha256(self) -> str:
        """The combined hash of the files."""
        return combined_sha256([file.sha256 for file in self.files])


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What was read of a source's files."""

    source: str
    snapshots: Sequence[Snapshot]
    rows: Callable[[Snapshot], Iterator[list[tuple[Any, ...]]]]
    """As `Reading.rows`."""
    terms: str
    """Digest of what reading depended on besides the files."""
    appends: bool
    """Adds to what the source delivered before, instead of replacing it."""
    again: int | None = None
    """The number of the delivery of which this is a new reading. It brings nothing back that a later one replaced."""
    facts: Mapping[tuple[SnapshotKey, str], SnapshotStatistics] = field(default_factory=dict)
    """By key and currency, the statistics in which mistakes are looked for."""
    beside: frozenset[str] = frozenset()
    """SHA-256 of the files of other deliveries from the same place: what they brought stays."""


@dataclass(frozen=True)
class StaleDelivery:
    """A delivery that counts, and was read in other terms than today's."""

    number: int
    source: str
    files: tuple[DeliveredFile, ...]
    """All of it, also those whose snapshots no longer count: a charge may be in any of them for another account."""


class ChargesTaken(Exception):
    """Another source, or another delivery beside this one, has these charges: counting both would count them twice."""
