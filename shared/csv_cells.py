"""Text from outside as cells of CSV files: every file that we write for a spreadsheet uses this."""

from shared.printable import printable

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet may take for the start of a formula, the full-width signs too."""


def csv_text(outside: str | None) -> str:
    """Return a cell that no spreadsheet takes for a formula: `'` stands before what could be one."""
    shown = printable(outside or "")
    return f"'{shown}" if shown.lstrip(" '").startswith(FORMULA) else shown
