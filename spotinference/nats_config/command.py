"""The command `nats-config`."""

from collections.abc import Collection
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
@click.option(
    "--machine",
    "machines",
    multiple=True,
    help="Machine that reports spot notices, by its id. Repeat it for each.",
)
def nats_config(users_dir: Path, gateways: tuple[str, ...], machines: tuple[str, ...]) -> None:
    """Print the users of the bus and their permissions, to be included in the NATS server's configuration.

    Safe to repeat: keys that exist are kept.
    """
    _check_names("--gateway", gateways, set(ROLES) - {"gateway"})
    _check_names("--machine", machines, {*ROLES, *gateways})
    try:
        users = open_users(users_dir, gateways, machines)
    except SpotinferenceError as error:
        exit_with_error(str(error))
    for line in authorization(users).splitlines():
        print_line(line)


def _check_names(option: str, names: tuple[str, ...], taken: Collection[str]) -> None:
    for name in names:
        if not is_plain(name) or name in taken or names.count(name) > 1:
            raise click.BadParameter(
                f"{name!r}: use letters, digits, - and _, each name once, and no other user's", param_hint=option
            )
