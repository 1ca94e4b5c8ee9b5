"""What billing's database knows about a day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.billing.core.allocation.accrual import Accrual
from services.billing.core.allocation.fleet_history import KeptFleet
from services.billing.core.allocation.machine_time import StateChange
from services.billing.core.cost_row import CostRow
from services.billing.core.reports.cost_lines import ChargeOrigin
from shared.messages.invoices import InvoiceStanding


@dataclass(frozen=True, order=True)
class File:
    """An imported file that a figure was made from."""

    source: str
    file_name: str
    sha256: str
    rows: int
    """Delivered with it for one issuer, account and billing period, all of its files together."""


@dataclass(frozen=True, kw_only=True)
class DayRecords:
    """Charges, machine states and running bills of a day, all read at one moment."""

    rows: Sequence[CostRow]
    origins: Sequence[ChargeOrigin]
    """Where each row is from."""
    files: Sequence[File]
    changes: Mapping[str, Sequence[StateChange]]
    """By machine, from the state in which the day began to the first one after it."""
    invoices: Sequence[InvoiceStanding] = ()
    """The bills that the day waits for: of its charges, and of every billing period that has it."""
    accruals: Mapping[str, Sequence[Accrual]] = field(default_factory=dict)
    """By machine."""
    fleets: Sequence[KeptFleet] = ()
    """What the configuration said on the day, in order."""
