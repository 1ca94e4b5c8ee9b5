"""`spotinference budget`: the gates of the daily budgets, and the operator's word to them."""

import click

from shared.budget import FLEET, tier_scope
from shared.bus.subjects import BILLING_GATE
from shared.messages.budget import GateOrder, GateOrdered, Gates, GatesQuery
from spotinference.budget.view import _tell
from spotinference.context import Context, ask, operator, suite_options

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
        scope = FLEET if tier is None else tier_scope(tier)
        order = GateOrder(scope=scope, order=ORDERS[word], by=operator(), reason=reason)
        gates = context.on_bus(lambda bus: ask(bus, BILLING_GATE, order, Gates)).gates
        _tell(Gates(gates={scope: gates[scope]}), as_json=as_json)

    return given


budget.add_command(_command("open", "Let requests cost money until midnight UTC, whatever is spent or known."))
budget.add_command(_command("close", "Let nothing new cost money until midnight UTC."))
budget.add_command(_command("auto", "Withdraw an order: the gate goes by the spend again."))
