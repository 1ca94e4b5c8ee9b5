"""What every command has: `--config`, `--data-dir`, and a way to the running suite."""

import asyncio
import getpass
import os
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import click
import msgspec

from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.ports import Bus
from shared.bus.topology import LEASE_SECONDS
from shared.config.load import DEFAULT_DATA_DIR, find_config, load
from shared.config.sections import Config
from shared.errors import BusError, BusUnavailable, SpotinferenceError
from shared.errors import Rejected as Declined
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import ErrorReply
from shared.runtime import suite_file
from shared.tasks import cancel_and_wait
from spotinference.terminal import say

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound=msgspec.Struct)

SHIPPED_CONFIG = Path(__file__).parent / "local.toml"
"""What `up` runs where there is no configuration."""
BUS_SECONDS = 5.0


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

    def on_bus(self, work: Callable[[JetStreamBus], Coroutine[Any, Any, T]]) -> T:
        """Run `work` with a connection to the suite's bus."""
        return asyncio.run(self.connected(work))

    async def connected(self, work: Callable[[JetStreamBus], Coroutine[Any, Any, T]]) -> T:
        """The same inside a running event loop."""
        url = suite_file.bus_url(self.config(), self.data_dir)
        async with connect(url, name="spotinference", wait=BUS_SECONDS) as bus:
            return await _while_current(bus, work(bus))


async def _while_current(bus: JetStreamBus, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; `BusError` when a view that it looks at is no longer kept current."""
    task, ended = asyncio.ensure_future(work), asyncio.ensure_future(bus.wait_for_ended_watch())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise BusError(f"a bucket can no longer be followed: {ended.result()}")
    finally:
        await cancel_and_wait([task, ended])


class _Tagged(msgspec.Struct, frozen=True):
    """Any message: which one it is."""

    tag: str | None = msgspec.field(default=None, name="type")


async def ask(bus: Bus, subject: str, question: msgspec.Struct, answer: type[A], *, timeout: float = 30.0) -> A:
    """A service's answer; `Rejected` with its reason when it says no, `BusUnavailable` when nobody answers.

    Where a leader has just died the next one answers within the lease, so a question that nobody took is repeated.
    """
    data = await _answered(bus, subject, encode(question), timeout)
    try:
        if decode(data, _Tagged).tag == "refused.v1":
            raise Declined(decode(data, ErrorReply).reason)
        return decode(data, answer)
    except Unreadable as error:
        raise Declined(
            f"{subject} was answered in a form that this command does not know ({error}): run the same version of both"
        ) from error


async def _answered(bus: Bus, subject: str, question: bytes, timeout: float) -> bytes:
    patience = time.monotonic() + LEASE_SECONDS + 1.0
    while True:
        try:
            return await bus.request(subject, question, timeout=timeout)
        except BusUnavailable as error:
            if time.monotonic() > patience:
                raise BusUnavailable(f"{error}: does the service run? `spotinference up` starts it") from error
            await asyncio.sleep(0.25)


def suite_options(command: Callable[Concatenate[Context, P], T]) -> Callable[P, T]:
    """Give a command `--config` and `--data-dir`, and turn our errors into one line and exit status 1."""

    @click.option(
        "--config", "config_path", type=click.Path(path_type=Path), help="The TOML file. [SPOTINFERENCE_CONFIG]"
    )
    @click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_DATA_DIR,
        show_default=True,
        help="Where this host keeps its files; it leads to the running suite.",
    )
    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        config_path: Any = kwargs.pop("config_path")
        data_dir: Any = kwargs.pop("data_dir")
        try:
            return command(Context(config_path, data_dir), *args, **kwargs)
        except SpotinferenceError as error:
            fail(str(error))

    return wrapped


def fail(message: str) -> NoReturn:
    for line in message.splitlines():
        say(f"spotinference: {line}", err=True)
    sys.exit(1)


def operator() -> str:
    """Who gives an order: the user and the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
