"""The command `up`."""

import sys

import click

from spotinference.context import Context, suite_options
from spotinference.up.suite_runner import run


@click.command()
@suite_options
def up(context: Context) -> None:
    """Run all services on this host.

    Ctrl-C drains and stops them; a second Ctrl-C stops them immediately.
    """
    sys.exit(run(context.config(), context.path, context.data_dir))
