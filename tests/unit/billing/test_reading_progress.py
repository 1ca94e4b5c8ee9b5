"""While files are read, it is told how many rows were, and how much of all the bytes that is."""

import gzip
from pathlib import Path

import pytest

from services.billing.adapters import csv_lines
from services.billing.adapters.invoice_reader import DuckdbInvoiceReader
from services.billing.core.invoice_files.import_settings import ImportSettings
from shared.messages.invoices import DeliveredFile
from tests.unit.billing.cost_row_builders import focus_csv


def test_rows_and_share_rise_over_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_lines, "PROGRESS_LINES", 10)
    progress: list[tuple[str, int, float | None]] = []
    plain = focus_csv(*({"ResourceId": f"i-{n}"} for n in range(50)))
    packed = gzip.compress(focus_csv(*({"ResourceId": f"v-{n}"} for n in range(50))))
    files = []
    for number, content in enumerate((plain, packed)):
        path = tmp_path / f"{number}.file"
        path.write_bytes(content)
        files.append((DeliveredFile(name=path.name, sha256=f"{number}"), path))
    reading = DuckdbInvoiceReader(tmp_path, ImportSettings(source="cloud"), lambda *state: progress.append(state))
    try:
        reading.read(files)
    finally:
        reading.close()
    *read, last = progress
    assert [state[0] for state in read] == ["reading"] * len(read)
    assert read[0] == ("reading", 0, 0.0)
    shares = [share for *_, share in read if share is not None]
    assert shares == sorted(shares)
    assert shares[-1] <= 1
    assert any(share == pytest.approx(len(plain) / (len(plain) + len(packed))) for share in shares)
    rows = [rows for _, rows, _ in read]
    assert rows == sorted(rows)
    assert last == ("summing", 100, None)
