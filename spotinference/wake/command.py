"""The command `wake`."""

import click

from spotinference.context import Context, suite_options
from spotinference.waker_commands import _bound, _give, _json, _waits


@click.command()
@click.argument("model")
@_waits
@_json
@suite_options
def wake(context: Context, model: str, timeout: float | None, *, wait: bool, as_json: bool) -> None:
    """Wake a machine of MODEL, and keep it awake until `hibernate`."""
    _give(context, "wake", model, _bound(timeout, wait=wait), as_json=as_json)
