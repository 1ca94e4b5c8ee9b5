"""The machines as a table."""

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from shared.fleet_rows import MachineRow
from shared.messages.waker import MachineState
from spotinference.times import format_duration

COLOURS: Mapping[MachineState, str] = {
    "asleep": "dim",
    "waking": "yellow",
    "ready": "green",
    "draining": "cyan",
    "falling_asleep": "blue",
    "broken": "bold red",
    "gone": "red",
}


def fleet_table(rows: Sequence[MachineRow], note: str | None = None) -> Group:
    """Return `note`, a table of the machines, the progress of each wake, and what needs the operator's attention."""
    table = Table(
        "machine", "tier", "state", "for", "phase", "eta", "in flight", "idle", "endpoint", box=None, pad_edge=False
    )
    for column in table.columns:
        column.overflow = "fold"  # an id that is cut off cannot be used
    for row in rows:
        table.add_row(
            Text(row.id),
            Text(row.tier),
            Text(_state(row), COLOURS[row.state]),
            format_duration(row.state_seconds),
            row.phase or "",
            _eta(row),
            str(row.in_flight),
            "" if row.idle_seconds is None else format_duration(row.idle_seconds),
            Text(row.endpoint or ""),
        )
    above = [] if note is None else [Text(note, "bold yellow")]
    return Group(
        *above,
        table if rows else Text("no machines on record"),
        *(Text(f"  {row.id}: {row.reason}", "dim") for row in rows if row.state == "waking"),
        *(_attention_line(row) for row in rows if _needs_attention(row)),
    )


def _state(row: MachineRow) -> str:
    marks = [mark for mark, is_set in (("kept", row.kept), ("cordoned", row.cordoned)) if is_set]
    return ", ".join([row.state.replace("_", " "), *marks])


def _eta(row: MachineRow) -> str:
    if row.eta_seconds is not None:
        return format_duration(row.eta_seconds)
    return "?" if row.state == "waking" else ""


def _needs_attention(row: MachineRow) -> bool:
    return bool(row.alarm) or row.failed_wakes > 0 or row.state in ("broken", "gone")


def _attention_line(row: MachineRow) -> Text:
    return Text(f"! {row.id}: {row.alarm or row.reason or row.state}", "bold red")
