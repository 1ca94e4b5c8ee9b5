"""What a rejected file took in memory is free once the rejection is handled, without a collection of garbage."""

import gc
from pathlib import Path

import pytest

from services.billing.adapters.csv_lines import first_records
from services.billing.adapters.file_reader import FileReader
from services.billing.core.invoice_files.invalid_files import InvalidFile
from tests.unit.billing.file_reading import TERMS


def rejected(path: Path) -> str:
    """Return why the file is rejected."""
    reader = FileReader.__new__(FileReader)
    reader._terms = TERMS
    try:
        reader._form(path.name, first_records(path))
    except InvalidFile as error:
        return error.reason
    raise AssertionError("the file was accepted")


@pytest.mark.parametrize("header", ["c," * 100_000, "lineItem/UnblendedCost,x", "nothing,that,is,known"])
def test_a_rejected_file_keeps_nothing(tmp_path: Path, header: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"{header}\n")
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert rejected(path)
        gc.collect()
        assert not [left for left in gc.garbage if isinstance(left, InvalidFile)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
