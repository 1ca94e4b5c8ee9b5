"""The command `wake`."""

import click

from spotinference.context import Context, suite_options
from spotinference.waker_commands import json_option, send_command, wait_limit, wait_options


@click.command()
@click.argument("model")
@wait_options
@json_option
@suite_options
def wake(context: Context, model: str, timeout: float | None, *, wait: bool, as_json: bool) -> None:
    """Wake a machine for MODEL and keep it awake.

    `hibernate` ends this.
    """
    send_command(context, "wake", model, wait_limit(timeout, wait=wait), as_json=as_json)
