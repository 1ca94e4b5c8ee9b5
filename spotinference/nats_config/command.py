"""The command `nats-config`."""

from pathlib import Path

import click

from shared.bus.permissions import ROLES
from shared.bus.subjects import is_plain
from shared.errors import SpotinferenceError
from spotinference.context import exit_with_error
from spotinference.nats_config.server_config import authorization
from spotinference.nats_config.users import open_users
from spotinference.terminal import print_line


@click.command(name="nats-config")
@click.option(
    "--users-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the users' keys, one file each. Missing ones are made.",
)
@click.option(
    "--gateway",
    "gateways",
    multiple=True,
    default=("gateway",),
    show_default=True,
    help="User of one or more gateways. Repeat it for gateways that must not speak for each other.",
)
def nats_config(users_dir: Path, gateways: tuple[str, ...]) -> None:
    """Print the users of the bus and their permissions, to be included in the NATS server's configuration.

    Safe to repeat: keys that exist are kept.
    """
    for name in gateways:
        if not is_plain(name) or name in set(ROLES) - {"gateway"} or gateways.count(name) > 1:
            raise click.BadParameter(
                f"{name!r}: use letters, digits, - and _, each name once, and no other service's",
                param_hint="--gateway",
            )
    try:
        users = open_users(users_dir, gateways)
    except SpotinferenceError as error:
        exit_with_error(str(error))
    for line in authorization(users).splitlines():
        print_line(line)
