"""What every command has: `--config`, `--data-dir`, and a connection to the running services."""

import asyncio
import getpass
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import click
import msgspec

from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.permissions import Role
from shared.config.load import DEFAULT_DATA_DIR, find_config, load
from shared.config.sections import Config
from shared.errors import BusError, SpotinferenceError
from shared.printable import printable
from shared.runtime import suite_file
from shared.tasks import cancel_and_wait
from spotinference.terminal import print_line

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound=msgspec.Struct)

SHIPPED_CONFIG = Path(__file__).parent / "local.toml"
"""What `up` runs if there is no configuration."""
BUS_SECONDS = 5.0
OPERATOR_VARIABLE = "SPOTINFERENCE_OPERATOR"
OPERATOR_LENGTH = 200
"""Of who gave an order, as the journal keeps it."""


@dataclass(frozen=True)
class Context:
    """The options of one call."""

    config_path: Path | None
    data_dir: Path

    @property
    def path(self) -> Path:
        return find_config(self.config_path, SHIPPED_CONFIG)

    def config(self) -> Config:
        return load(self.path)

    def run_with_bus(self, work: Callable[[JetStreamBus], Coroutine[Any, Any, T]], *, role: Role = "operator") -> T:
        """Run `work` in an event loop, with a connection to the bus."""
        return asyncio.run(self.with_bus(work, role=role))

    async def with_bus(self, work: Callable[[JetStreamBus], Coroutine[Any, Any, T]], *, role: Role = "operator") -> T:
        """Await `work` with a connection to the bus. `role` is the user whose permissions it needs."""
        access = suite_file.bus_access(self.config(), self.data_dir, role)
        async with connect(access, name="spotinference", wait=BUS_SECONDS) as bus:
            return await _run_while_watches_last(bus, work(bus))


async def _run_while_watches_last(bus: JetStreamBus, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. Raises `BusError` if a view that it reads is no longer kept current."""
    task, ended = asyncio.ensure_future(work), asyncio.ensure_future(bus.wait_for_ended_watch())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise BusError(f"a bucket can no longer be watched: {ended.result()}")
    finally:
        await cancel_and_wait([task, ended])


def suite_options(command: Callable[Concatenate[Context, P], T]) -> Callable[P, T]:
    """Add `--config` and `--data-dir` to a command, and turn our errors into one line and exit status 1."""

    @click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        help="Configuration file.  [env: SPOTINFERENCE_CONFIG]",
    )
    @click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_DATA_DIR,
        show_default=True,
        help="Data directory of this host. Commands find the running services through it.",
    )
    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        config_path: Any = kwargs.pop("config_path")
        data_dir: Any = kwargs.pop("data_dir")
        try:
            return command(Context(config_path, data_dir), *args, **kwargs)
        except SpotinferenceError as error:
            exit_with_error(str(error))

    return wrapped


def exit_with_error(message: str) -> NoReturn:
    """Print the message on standard error and exit with status 1."""
    for line in message.splitlines():
        print_line(f"spotinference: {line}", err=True)
    sys.exit(1)


def operator_identity() -> str:
    """Return who runs this command: `SPOTINFERENCE_OPERATOR` if it is set, else `user@host`.

    In a container, every user and host looks the same.
    """
    if name := os.environ.get(OPERATOR_VARIABLE, "").strip():
        return printable(name)[:OPERATOR_LENGTH]
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
