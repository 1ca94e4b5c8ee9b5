"""Gaps and lost events as tables and as JSON."""

from datetime import UTC, datetime

from rich.table import Table

from shared.messages.meter import DeclaredLost, Gaps
from spotinference.terminal import print_line, print_table


def gaps_json(found: Gaps) -> dict[str, object]:
    return {
        "open": [
            {
                "source": gap.source,
                "first": gap.first,
                "last": gap.last,
                "earliest": _format_time(gap.earliest),
                "latest": _format_time(gap.latest),
                "quarantined": gap.quarantined,
                "note": gap.note,
            }
            for gap in found.open
        ],
        "lost": [_lost_fields(lost) for lost in found.lost],
        "more": found.more,
    }


def _lost_fields(lost: DeclaredLost) -> dict[str, object]:
    return {
        "source": lost.source,
        "first": lost.first,
        "last": lost.last,
        "by": lost.by,
        "reason": lost.reason,
        "at": _format_time(lost.at),
    }


def print_gaps(found: Gaps) -> None:
    table = Table("source", "first", "last", "completed between", "and", "why", title="Missing")
    for gap in found.open:
        why = gap.quarantined or gap.note or "has not come"
        table.add_row(
            gap.source, str(gap.first), str(gap.last), _format_time(gap.earliest), _format_time(gap.latest), why
        )
    print_table(table)
    if found.lost:
        table = Table("source", "first", "last", "by", "at", "reason", title="Declared lost")
        for lost in found.lost:
            table.add_row(lost.source, str(lost.first), str(lost.last), lost.by, _format_time(lost.at), lost.reason)
        print_table(table)
    if found.more:
        print_line("there are more")


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(max(0.0, at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
