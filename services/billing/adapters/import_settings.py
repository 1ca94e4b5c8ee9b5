"""What reading a delivery depends on besides its files, and what of it is refused."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from services.billing.adapters.charge_database import is_too_large
from services.billing.core.invoice_files.invalid_files import TOO_LARGE, InvalidFile
from services.billing.core.invoice_files.schema import ExchangeRate
from shared.messages.invoices import RowError

READER_VERSION = 2
"""Raised when the same files are read otherwise: then what counts is read again."""
MAX_ROW_ERRORS = 100


class Interrupted(Exception):
    """Somebody ended the reading."""


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    source: str
    mine: frozenset[str] = frozenset()
    """The resources of configured machines: their charges stay as they were delivered."""
    rates: tuple[ExchangeRate, ...] = ()
    rounds: bool = False
    """Costs with too many decimals are rounded, not refused. Not in the digest: what was taken stays so."""

    @property
    def digest(self) -> str:
        told = [sorted(self.mine), [[rate.currency, rate.per_usd, rate.start] for rate in self.rates]]
        return f"{READER_VERSION}-{hashlib.sha256(json.dumps(told).encode()).hexdigest()}"


def is_of_this_reader(digest: str) -> bool:
    """Whether the terms of this digest were today's reader's."""
    return digest.startswith(f"{READER_VERSION}-")


@dataclass
class RowErrors:
    """The first faults of a delivery."""

    found: list[RowError] = field(default_factory=list)

    def add(self, file: str, line: int, column: str, reason: str) -> None:
        if len(self.found) < MAX_ROW_ERRORS:
            self.found.append(RowError(file=file, line=line, column=column, reason=reason))

    @contextmanager
    def of(self, name: str, path: Path | None = None) -> Iterator[None]:
        """What is wrong with a file as a whole is a refusal of it."""
        try:
            yield
        except InvalidFile as error:
            self.add(name, error.line, error.column, error.reason)
        except duckdb.InterruptException as error:
            raise Interrupted from error
        except (duckdb.Error, OSError) as error:
            told = str(error).partition("\n")[0].replace(str(path), name)
            reason = TOO_LARGE if is_too_large(error) else f"cannot be read ({told}): fetch the file again"
            self.add(name, 0, "", reason)
