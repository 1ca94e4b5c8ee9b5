"""The command `cordon`."""

import click

from spotinference.context import Context, suite_options
from spotinference.waker_commands import json_option, send_command


@click.command()
@click.argument("machine")
@json_option
@suite_options
def cordon(context: Context, machine: str, *, as_json: bool) -> None:
    """Stop sending requests to MACHINE: drain it, and do not wake it.

    `uncordon` ends this.
    """
    send_command(context, "cordon", machine, None, as_json=as_json)
