"""What the meaning of an invoice file depends on besides its content."""

import hashlib
import json
from dataclasses import dataclass

from services.billing.core.invoice_files.schema import ExchangeRate

READER_VERSION = 2
"""Increase it whenever the same files are read differently: then the files that count are read again."""


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """The settings with which one source's files are read."""

    source: str
    mine: frozenset[str] = frozenset()
    """The resources of machines, configured or not any more: their charges stay as they were delivered."""
    rates: tuple[ExchangeRate, ...] = ()
    rounds: bool = False
    """Round costs with too many decimals instead of rejecting them. Not in the digest: imported charges stay."""

    @property
    def digest(self) -> str:
        dependencies = [sorted(self.mine), [[rate.currency, rate.per_usd, rate.start] for rate in self.rates]]
        return f"{READER_VERSION}-{hashlib.sha256(json.dumps(dependencies).encode()).hexdigest()}"


def is_of_this_reader(digest: str) -> bool:
    """Whether the settings with this digest were those of the present reader."""
    return digest.startswith(f"{READER_VERSION}-")
