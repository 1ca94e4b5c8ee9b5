"""Makes text from outside safe as a cell of a CSV file. Every file for a spreadsheet uses this."""

from shared.printable import printable

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet may read as the start of a formula, including the full-width signs."""


def csv_text(text: str | None) -> str:
    """Return a cell that no spreadsheet reads as a formula: a `'` precedes what could be one."""
    shown = printable(text or "")
    return f"'{shown}" if shown.lstrip(" '").startswith(FORMULA) else shown
