"""The command `uncordon`."""

import click

from spotinference.context import Context, suite_options
from spotinference.waker_commands import _give, _json


@click.command()
@click.argument("machine")
@_json
@suite_options
def uncordon(context: Context, machine: str, *, as_json: bool) -> None:
    """Let requests have MACHINE again."""
    _give(context, "uncordon", machine, None, as_json=as_json)
