"""The command `hibernate`."""

import click

from spotinference.context import Context, suite_options
from spotinference.waker_commands import json_option, send_command, wait_limit, wait_options


@click.command()
@click.argument("machine")
@click.option("--force", is_flag=True, help="Stop it even if its engine says that it runs requests.")
@wait_options
@json_option
@suite_options
def hibernate(context: Context, machine: str, timeout: float | None, *, force: bool, wait: bool, as_json: bool) -> None:
    """Drain MACHINE and put it to sleep.

    It is stopped once every gateway has let go of it and its engine runs nothing. This also ends the effect of an
    earlier `wake`. The next request may wake the machine again.
    """
    send_command(context, "hibernate", machine, wait_limit(timeout, wait=wait), as_json=as_json, force=force)
