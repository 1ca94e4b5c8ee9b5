"""Budget gates as a table and as JSON."""

from rich.table import Table

from shared.messages.budget import BudgetGate, Gates
from shared.messages.codec import rfc3339
from spotinference.terminal import echo_json, print_line, print_table


def print_gates(gates: Gates, *, as_json: bool) -> None:
    if as_json:
        echo_json({"gates": [_gate_fields(scope, gate) for scope, gate in gates.gates.items()]})
        return
    if not gates.gates:
        print_line("no budget is configured: set daily_budget in [billing] or in a [[tier]]")
        return
    table = Table("gate", "state", "spent today, USD", "override")
    for scope, gate in gates.gates.items():
        spend = f"{gate.spend}" if gate.observed else f"unknown, last known {gate.spend}"
        table.add_row(scope, _state(gate), f"{spend} of {gate.limit}", _order(gate))
    print_table(table)


def _state(gate: BudgetGate) -> str:
    if not gate.open:
        return f"closed: {gate.reason}"
    return "open, warning" if gate.warning else "open"


def _order(gate: BudgetGate) -> str:
    if gate.ordered == "auto":
        return ""
    return f"{gate.ordered} on {gate.ordered_day} by {gate.ordered_by}: {gate.ordered_why}"


def _gate_fields(scope: str, gate: BudgetGate) -> dict[str, object]:
    return {
        "scope": scope,
        "open": gate.open,
        "reason": gate.reason,
        "spend": gate.spend if gate.observed else None,
        "limit": gate.limit,
        "warning": gate.warning,
        "observed_at": rfc3339(gate.observed_at),
        "ordered": gate.ordered,
        "ordered_day": gate.ordered_day,
        "ordered_by": gate.ordered_by,
        "ordered_why": gate.ordered_why,
    }
