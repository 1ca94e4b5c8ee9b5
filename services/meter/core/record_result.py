"""What recording one batch did."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.meter.core.batch import QuarantineKind
from services.meter.core.rollups import MonthKey
from services.meter.core.unknown_models import UnknownModel, What
from shared.messages.gateway import UsageEvent


@dataclass(frozen=True, kw_only=True)
class RecordResult:
    """Counts of messages, and the marks and months that the batch touched, as they are after it."""

    events: tuple[UsageEvent, ...] = ()
    """The counted ones: those that the ledger did not have."""
    counted: int
    repeated: int
    conflicts: int
    quarantined: Mapping[QuarantineKind, int]
    unknown: Mapping[tuple[What, str], UnknownModel]
    """Names among the counted events that the configuration does not have."""
    marks: dict[str, int]
    """By source: the number up to which the ledger has every event."""
    months: dict[MonthKey, int]
    """Tokens in total, including those of earlier batches."""
