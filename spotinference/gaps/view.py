"""Gaps and lost events as tables and as JSON."""

from datetime import UTC, datetime

from rich.table import Table

from shared.messages.meter import DeclaredLost, Gaps
from spotinference.terminal import say, show


def _told(found: Gaps) -> dict[str, object]:
    return {
        "open": [
            {
                "source": gap.source,
                "first": gap.first,
                "last": gap.last,
                "earliest": _time(gap.earliest),
                "latest": _time(gap.latest),
                "quarantined": gap.quarantined,
                "note": gap.note,
            }
            for gap in found.open
        ],
        "lost": [_lost(lost) for lost in found.lost],
        "more": found.more,
    }


def _lost(lost: DeclaredLost) -> dict[str, object]:
    return {
        "source": lost.source,
        "first": lost.first,
        "last": lost.last,
        "by": lost.by,
        "reason": lost.reason,
        "at": _time(lost.at),
    }


def _print(found: Gaps) -> None:
    table = Table("source", "first", "last", "completed between", "and", "why", title="Missing")
    for gap in found.open:
        why = gap.quarantined or gap.note or "has not come"
        table.add_row(gap.source, str(gap.first), str(gap.last), _time(gap.earliest), _time(gap.latest), why)
    show(table)
    if found.lost:
        table = Table("source", "first", "last", "by", "at", "reason", title="Declared lost")
        for lost in found.lost:
            table.add_row(lost.source, str(lost.first), str(lost.last), lost.by, _time(lost.at), lost.reason)
        show(table)
    if found.more:
        say("there are more")


def _time(at: float) -> str:
    return datetime.fromtimestamp(max(0.0, at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
