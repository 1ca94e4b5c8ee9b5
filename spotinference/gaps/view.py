"""Gaps and lost events as tables and as JSON."""

from rich.table import Table

from shared.messages.meter import DeclaredLost, Gaps
from spotinference.terminal import print_line, print_table
from spotinference.times import format_time


def gaps_json(reply: Gaps) -> dict[str, object]:
    return {
        "open": [
            {
                "source": gap.source,
                "first": gap.first,
                "last": gap.last,
                "earliest": format_time(gap.earliest),
                "latest": format_time(gap.latest),
                "quarantined": gap.quarantined,
                "note": gap.note,
            }
            for gap in reply.open
        ],
        "lost": [_lost_fields(lost) for lost in reply.lost],
        "more": reply.more,
    }


def _lost_fields(lost: DeclaredLost) -> dict[str, object]:
    return {
        "source": lost.source,
        "first": lost.first,
        "last": lost.last,
        "by": lost.by,
        "reason": lost.reason,
        "at": format_time(lost.at),
    }


def print_gaps(reply: Gaps) -> None:
    if not reply.open and not reply.lost:
        print_line("no gaps: every event that a gateway numbered has arrived")
        return
    table = Table("source", "first", "last", "completed after", "completed before", "reason", title="Missing")
    for gap in reply.open:
        why = gap.quarantined or gap.note or "has not arrived"
        table.add_row(
            gap.source, str(gap.first), str(gap.last), format_time(gap.earliest), format_time(gap.latest), why
        )
    print_table(table)
    if reply.lost:
        table = Table("source", "first", "last", "by", "at", "reason", title="Declared lost")
        for lost in reply.lost:
            table.add_row(lost.source, str(lost.first), str(lost.last), lost.by, format_time(lost.at), lost.reason)
        print_table(table)
    if reply.more:
        print_line("there are more gaps than are shown")
