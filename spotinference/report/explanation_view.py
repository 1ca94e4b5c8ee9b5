"""The parts of a figure of a report, as JSON and as a table."""

from decimal import Decimal
from typing import Any

import msgspec
from rich.console import Group
from rich.text import Text

from services.billing.adapters.export.formatting import Report, line_name, missing_reason, span_of
from shared.errors import Rejected
from shared.messages.billing import DayReport
from shared.messages.explanation import CostLine, Explanation
from shared.printable import printable
from shared.report_forms.plain_json import to_plain
from spotinference.tables import decimal_places, figure_table, format_usd

WIDE = 100
"""From this many columns on, service, tag and source have columns of their own."""
WIDE_TEXTS = 4


def find_explanation(report: Report, figure: str) -> Explanation:
    """Return the explanation of a figure; a cause takes precedence over a tier of the same name.

    Raises:
        Rejected: the report does not explain the figure.
    """
    for one in report.explanations:
        if one.figure == figure:
            return one
    if not report.explanations:
        missing = report.left_out or "billing sent no explanations: run the same version of the command and billing"
        why = missing if report.causes else report.reason or "its cost is not known"
        raise Rejected(f"{span_of(report)}: no figure can be explained: {why}")
    names = ", ".join(one.figure for one in report.explanations)
    raise Rejected(f"--explain: no figure is named {figure!r}; the figures are {names}")


def explanation_json(report: Report, one: Explanation) -> dict[str, Any]:
    """Return the explanation and its day and revision. A `reason` means that it covers only what is known."""
    fields: dict[str, Any] = to_plain(msgspec.to_builtins(one, builtin_types=(Decimal,)))
    fields["reason"] = missing_reason(report, one)
    if isinstance(report, DayReport):
        return {"day": report.day, "state": report.state, "revision": report.revision, **fields}
    return {"from": report.first, "to": report.to, "state": report.state, **fields}


def render_explanation(report: Report, one: Explanation, width: int) -> Group:
    """Render the figure first, then its lines, which sum to it."""
    revision = f", revision {report.revision}" if isinstance(report, DayReport) else ""
    heading = Text(f"{printable(one.figure)}: ${format_usd(one.amount)}", "bold")
    if reason := missing_reason(report, one):
        heading.append(f" known so far: {printable(reason)}", "not bold")
    heading.append(f"\n{span_of(report)} UTC, {report.state or 'no figure'}{revision}\n", "not bold")
    places = decimal_places([one.amount, *(line.amount for line in one.lines)])
    texts = WIDE_TEXTS if width >= WIDE else 1
    rows = [
        (*_texts(line, texts), f"{line.charges:,}" if line.charges else "", format_usd(line.amount, places))
        for line in one.lines
    ]
    blank = [""] * (texts - 1)
    if one.more:
        rows.append((f"{one.more:,} others", *blank, "", format_usd(one.rest, places)))
    headings = ("resource", "service", "tag", "source")[:texts]
    sums = [("total", *blank, "", format_usd(one.amount, places))]
    return Group(heading, figure_table((*headings, "charges", "USD"), rows, sums, texts=texts, folds=texts))


def _texts(line: CostLine, columns: int) -> tuple[str, ...]:
    """Return the texts of a line in `columns` columns: one each, or all in one."""
    name = line_name(line)
    if line.category not in (None, "Usage"):
        name = f"{name} ({line.category})"
    origin = " ".join(filter(None, (line.source, line.file)))
    texts = (name, line.service or "", line.tag or "", origin)
    return texts if columns == len(texts) else (", ".join(filter(None, texts)),)
