"""The command `hibernate`."""

import click

from spotinference.context import Context, suite_options
from spotinference.waker_commands import _bound, _give, _json, _waits


@click.command()
@click.argument("machine")
@_waits
@_json
@suite_options
def hibernate(context: Context, machine: str, timeout: float | None, *, wait: bool, as_json: bool) -> None:
    """Drain MACHINE and put it to sleep. It withdraws an earlier `wake`; the next request may wake it again."""
    _give(context, "hibernate", machine, _bound(timeout, wait=wait), as_json=as_json)
