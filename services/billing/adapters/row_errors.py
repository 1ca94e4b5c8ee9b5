"""What is wrong with the files of a delivery: the first faults, each with its file, line and column."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from services.billing.adapters.charge_database import is_too_large
from services.billing.core.invoice_files.invalid_files import TOO_LARGE, InvalidFile
from services.billing.ports import Interrupted
from shared.messages.invoices import RowError

MAX_ROW_ERRORS = 100


@dataclass
class RowErrors:
    """The first `MAX_ROW_ERRORS` faults of a delivery."""

    errors: list[RowError] = field(default_factory=list)

    def add(self, file: str, line: int, column: str, reason: str) -> None:
        if len(self.errors) < MAX_ROW_ERRORS:
            self.errors.append(RowError(file=file, line=line, column=column, reason=reason))

    @contextmanager
    def recording(self, name: str, path: Path | None = None) -> Iterator[None]:
        """Turn an error about a whole file into a `RowError`."""
        try:
            yield
        except InvalidFile as error:
            self.add(name, error.line, error.column, error.reason)
        except duckdb.InterruptException as error:
            raise Interrupted from error
        except (duckdb.Error, OSError) as error:
            message = str(error).partition("\n")[0].replace(str(path), name)
            reason = TOO_LARGE if is_too_large(error) else f"cannot be read ({message}): fetch the file again"
            self.add(name, 0, "", reason)
