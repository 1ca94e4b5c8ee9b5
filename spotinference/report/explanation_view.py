"""What a figure of a report is made of, as fields for other programs and as a table."""

from decimal import Decimal
from typing import Any

import msgspec
from rich.console import Group
from rich.text import Text

from services.billing.forms.json import plain
from services.billing.forms.words import Report, lacking, line_name, span_of
from shared.errors import Rejected
from shared.messages.billing import DayReport
from shared.messages.explanation import CostLine, Explanation
from shared.printable import printable
from spotinference.tables import places_of, table, usd

WIDE = 100
"""A terminal of so many columns has room for service, tag and source in columns of their own."""
WIDE_TEXTS = 4


def chosen(report: Report, figure: str) -> Explanation:
    """The explanation of this figure; a cause goes before a tier of its name. `Rejected` where there is none."""
    for one in report.explanations:
        if one.figure == figure:
            return one
    if not report.explanations:
        gave_none = report.left_out or "billing gave none: run the same version of both"
        why = gave_none if report.causes else report.reason or "its cost is not known"
        raise Rejected(f"{span_of(report)}: nothing can be explained: {why}")
    names = ", ".join(one.figure for one in report.explanations)
    raise Rejected(f"--explain: no figure is named {figure!r}: there are {names}")


def fields(report: Report, one: Explanation) -> dict[str, Any]:
    """The explanation, and which figure of which revision it is of; with a `reason` it is of what is known of that."""
    told: dict[str, Any] = plain(msgspec.to_builtins(one, builtin_types=(Decimal,)))
    told["reason"] = lacking(report, one)
    if isinstance(report, DayReport):
        return {"day": report.day, "state": report.state, "revision": report.revision, **told}
    return {"from": report.first, "to": report.to, "state": report.state, **told}


def view(report: Report, one: Explanation, width: int) -> Group:
    """The figure first, then its lines, which sum to it."""
    revision = f", revision {report.revision}" if isinstance(report, DayReport) else ""
    heading = Text(f"{printable(one.figure)}: ${usd(one.amount)}", "bold")
    if reason := lacking(report, one):
        heading.append(f" known: {printable(reason)}", "not bold")
    heading.append(f"\n{span_of(report)} UTC, {report.state or 'no figure'}{revision}\n", "not bold")
    places = places_of([one.amount, *(line.amount for line in one.lines)])
    texts = WIDE_TEXTS if width >= WIDE else 1
    rows = [
        (*_texts(line, texts), f"{line.charges:,}" if line.charges else "", usd(line.amount, places))
        for line in one.lines
    ]
    blank = [""] * (texts - 1)
    if one.more:
        rows.append((f"{one.more:,} more", *blank, "", usd(one.rest, places)))
    headings = ("resource", "service", "tag", "source")[:texts]
    sums = [("sum", *blank, "", usd(one.amount, places))]
    return Group(heading, table((*headings, "charges", "USD"), rows, sums, texts=texts, folds=texts))


def _texts(line: CostLine, columns: int) -> tuple[str, ...]:
    """What the line is of, in so many columns: all, or one with everything."""
    name = line_name(line)
    if line.category not in (None, "Usage"):
        name = f"{name} ({line.category})"
    origin = " ".join(filter(None, (line.source, line.file)))
    texts = (name, line.service or "", line.tag or "", origin)
    return texts if columns == len(texts) else (", ".join(filter(None, texts)),)
