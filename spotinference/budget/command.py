"""The command `budget`."""

import click

from shared.budget_gates import FLEET_SCOPE, tier_scope
from shared.bus.request import request_reply
from shared.bus.subjects import BILLING_GATE
from shared.messages.budget import GateOrder, GateOrdered, Gates, GatesQuery
from spotinference.budget.view import print_gates
from spotinference.context import Context, operator_identity, suite_options

ORDERS: dict[str, GateOrdered] = {"open": "open", "close": "close", "auto": "auto"}
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(invoke_without_command=True)
@_json
@suite_options
def budget(context: Context, *, as_json: bool) -> None:
    """Show the budget gates of the fleet and the tiers."""
    if click.get_current_context().invoked_subcommand is None:
        print_gates(
            context.run_with_bus(lambda bus: request_reply(bus, BILLING_GATE, GatesQuery(), Gates)), as_json=as_json
        )


def _command(name: str, help_text: str) -> click.Command:
    @click.command(name, help=help_text)
    @click.option("--tier", help="Tier of the gate.  [default: the fleet's gate]")
    @click.option("--reason", required=True, help="Why. The journal records it.")
    @_json
    @suite_options
    def override(context: Context, tier: str | None, reason: str, *, as_json: bool) -> None:
        scope = FLEET_SCOPE if tier is None else tier_scope(tier)
        order = GateOrder(scope=scope, order=ORDERS[name], by=operator_identity(), reason=reason)
        gates = context.run_with_bus(lambda bus: request_reply(bus, BILLING_GATE, order, Gates)).gates
        print_gates(Gates(gates={scope: gates[scope]}), as_json=as_json)

    return override


budget.add_command(_command("open", "Keep the gate open until midnight UTC, whatever has been spent."))
budget.add_command(
    _command("close", "Keep the gate closed until midnight UTC: new requests that cost money are rejected.")
)
budget.add_command(_command("auto", "End an override: the gate follows the spend again."))
