"""A statement as a table."""

from shared.key_names import key_label
from shared.messages.billing import Statement, StatementLine
from shared.printable import printable
from spotinference.tables import table
from spotinference.terminal import Screen

WIDE = 100
"""A terminal of so many columns has room for each kind of token."""


def show(found: Statement) -> None:
    """A line per day and model, and their sum."""
    console = Screen()
    amount = "not available" if found.amount is None else f"${found.amount:,.4f}"
    told = f"{printable(key_label(found.key_id, found.name))}, {found.month}: {amount} for {found.tokens:,} tokens"
    console.print(f"{told}, {'complete' if found.complete else 'not complete'}")
    wide = console.width >= WIDE
    if found.lines:
        kinds = ("prompt", "cached", "completion") if wide else ("tokens",)
        rows = [_row(line, wide=wide) for line in found.lines]
        console.print(table(("model", "day", *kinds, "$/Mtok", "USD"), rows, texts=2))
    unpriced = dict.fromkeys(f"{line.day} {line.model}: {line.reason}" for line in found.lines if line.amount is None)
    for reason in (*unpriced, *found.reasons):
        console.print(printable(reason))


def _row(line: StatementLine, *, wide: bool) -> list[str]:
    prompt, completion = line.prompt_tokens, line.completion_tokens
    tokens = (prompt, line.cached_tokens, completion) if wide else (prompt + completion,)
    ratio = "-" if line.usd_per_mtok is None else f"{line.usd_per_mtok:,.4f}"
    amount = "-" if line.amount is None else f"{line.amount:,.6f}"
    return [line.model, line.day, *(f"{count:,}" for count in tokens), ratio, amount]
