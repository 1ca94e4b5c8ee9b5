"""The file in the data directory that says where the running suite is: how every command and service finds the bus."""

import os
from pathlib import Path

import msgspec

from shared.config import Config, environment
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode

FILE = "suite.json"
BUS_URL_VARIABLE = "SPOTINFERENCE_BUS_URL"


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """One service of the suite, as it announced itself. `url` is an origin."""

    service: str
    url: str
    pid: int
    metrics_url: str | None = None


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    """Of `spotinference up`."""
    services: dict[str, Running]


def write(data_dir: Path, suite: Suite) -> None:
    """Whole or not at all; readable by its owner alone."""
    partial = data_dir / (FILE + ".new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(suite))
    partial.replace(data_dir / FILE)


def read(data_dir: Path) -> Suite | None:
    try:
        return decode((data_dir / FILE).read_bytes(), Suite)
    except (FileNotFoundError, Unreadable):
        return None


def remove(data_dir: Path) -> None:
    (data_dir / FILE).unlink(missing_ok=True)


def bus_url(config: Config, data_dir: Path) -> str:
    """Where the bus is: the environment's word (it may hold a password), the configuration's, the suite's."""
    if url := environment(BUS_URL_VARIABLE) or config.bus.url:
        return url
    suite = read(data_dir)
    if suite is None or "bus" not in suite.services:
        raise Misconfigured(
            f"no bus: [bus] url is not set and no suite runs in {data_dir}: start one with `spotinference up`, "
            "or name its folder with --data-dir"
        )
    return suite.services["bus"].url
