"""The command `uncordon`."""

import click

from spotinference.context import Context, suite_options
from spotinference.waker_commands import json_option, send_command


@click.command()
@click.argument("machine")
@json_option
@suite_options
def uncordon(context: Context, machine: str, *, as_json: bool) -> None:
    """Let MACHINE take requests again."""
    send_command(context, "uncordon", machine, None, as_json=as_json)
