"""The command `hibernate`."""

import click

from spotinference.context import Context, suite_options
from spotinference.waker_commands import json_option, send_command, wait_limit, wait_options


@click.command()
@click.argument("machine")
@wait_options
@json_option
@suite_options
def hibernate(context: Context, machine: str, timeout: float | None, *, wait: bool, as_json: bool) -> None:
    """Drain MACHINE and put it to sleep.

    This also ends the effect of an earlier `wake`. The next request may wake the machine again.
    """
    send_command(context, "hibernate", machine, wait_limit(timeout, wait=wait), as_json=as_json)
