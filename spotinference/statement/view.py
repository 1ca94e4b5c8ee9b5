"""A statement as a table."""

from shared.key_names import key_label
from shared.messages.billing import Statement, StatementLine
from shared.printable import printable
from spotinference.tables import figure_table
from spotinference.terminal import Screen

WIDE = 100
"""From this many columns on, each kind of token has a column."""


def print_statement(statement: Statement) -> None:
    """Print the total, then one line per day and model."""
    console = Screen()
    amount = "not available" if statement.amount is None else f"${statement.amount:,.4f}"
    label = printable(key_label(statement.key_id, statement.name))
    state = "complete" if statement.complete else "not complete"
    console.print(f"{label}, {statement.month}: {amount} for {statement.tokens:,} tokens, {state}")
    wide = console.width >= WIDE
    if statement.lines:
        kinds = ("prompt", "cached", "completion") if wide else ("tokens",)
        rows = [_row(line, wide=wide) for line in statement.lines]
        console.print(figure_table(("model", "day", *kinds, "$/Mtok", "USD"), rows, texts=2))
    unpriced = dict.fromkeys(
        f"{line.day} {line.model}: {line.reason}" for line in statement.lines if line.amount is None
    )
    for reason in (*unpriced, *statement.reasons):
        console.print(printable(reason))


def _row(line: StatementLine, *, wide: bool) -> list[str]:
    prompt, completion = line.prompt_tokens, line.completion_tokens
    tokens = (prompt, line.cached_tokens, completion) if wide else (prompt + completion,)
    ratio = "-" if line.usd_per_mtok is None else f"{line.usd_per_mtok:,.4f}"
    amount = "-" if line.amount is None else f"{line.amount:,.6f}"
    return [line.model, line.day, *(f"{count:,}" for count in tokens), ratio, amount]
