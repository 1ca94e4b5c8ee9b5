"""The command `cordon`."""

import click

from spotinference.context import Context, suite_options
from spotinference.waker_commands import _give, _json


@click.command()
@click.argument("machine")
@_json
@suite_options
def cordon(context: Context, machine: str, *, as_json: bool) -> None:
    """Keep requests from MACHINE until `uncordon`: it is drained, and not woken."""
    _give(context, "cordon", machine, None, as_json=as_json)
