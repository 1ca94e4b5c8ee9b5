"""`spotinference budget`: the gates of the daily budgets, and the operator's word to them."""

import click
from rich.table import Table

from shared.budget import FLEET, scope_of
from shared.bus.subjects import BILLING_GATE
from shared.messages.budget import BudgetGate, GateOrder, GateOrdered, Gates, GatesQuery
from shared.messages.codec import rfc3339
from spotinference.context import Context, ask, suite_options
from spotinference.terminal import echo_json, say, show
from spotinference.waker_commands import operator

ORDERS: dict[str, GateOrdered] = {"open": "open", "close": "close", "auto": "auto"}
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.group(invoke_without_command=True)
@_json
@suite_options
def budget(context: Context, *, as_json: bool) -> None:
    """How each budget gate stands: the fleet's and the tiers'."""
    if click.get_current_context().invoked_subcommand is None:
        _tell(context.on_bus(lambda bus: ask(bus, BILLING_GATE, GatesQuery(), Gates)), as_json=as_json)


def _command(word: str, what: str) -> click.Command:
    @click.command(word, help=what)
    @click.option("--tier", help="The gate of this tier; the fleet's when absent.")
    @click.option("--reason", required=True, help="Why: it stands in the journal.")
    @_json
    @suite_options
    def given(context: Context, tier: str | None, reason: str, *, as_json: bool) -> None:
        scope = FLEET if tier is None else scope_of(tier)
        order = GateOrder(scope=scope, order=ORDERS[word], by=operator(), reason=reason)
        gates = context.on_bus(lambda bus: ask(bus, BILLING_GATE, order, Gates)).gates
        _tell(Gates(gates={scope: gates[scope]}), as_json=as_json)

    return given


budget.add_command(_command("open", "Let requests cost money until midnight UTC, whatever is spent or known."))
budget.add_command(_command("close", "Let nothing new cost money until midnight UTC."))
budget.add_command(_command("auto", "Withdraw an order: the gate goes by the spend again."))


def _tell(gates: Gates, *, as_json: bool) -> None:
    if as_json:
        echo_json({"gates": [_facts(scope, gate) for scope, gate in gates.gates.items()]})
        return
    if not gates.gates:
        say("no budget: give [billing] or a [[tier]] a daily_budget")
        return
    table = Table("gate", "state", "spent today, USD", "ordered")
    for scope, gate in gates.gates.items():
        spend = f"{gate.spend}" if gate.observed else f"unknown, last {gate.spend}"
        table.add_row(scope, _state(gate), f"{spend} of {gate.limit}", _order(gate))
    show(table)


def _state(gate: BudgetGate) -> str:
    if not gate.open:
        return f"closed: {gate.reason}"
    return "open, warning" if gate.warning else "open"


def _order(gate: BudgetGate) -> str:
    if gate.ordered == "auto":
        return ""
    return f"{gate.ordered} on {gate.ordered_day} by {gate.ordered_by}: {gate.ordered_why}"


def _facts(scope: str, gate: BudgetGate) -> dict[str, object]:
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
