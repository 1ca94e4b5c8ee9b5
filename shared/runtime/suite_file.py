"""Reads and writes the file in the data directory by which commands and services find the running suite."""

import contextlib
import os
from pathlib import Path

import msgspec

from shared.bus.access import USER, BusAccess
from shared.config.load import environment, environment_file
from shared.config.sections import Config
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode, encode

FILE = "suite.json"
BUS_URL_VARIABLE = "SPOTINFERENCE_BUS_URL"
BUS_USERS = Path("bus", "users")
"""Where `up` keeps the keys of its bus's users."""
BUS_KEYS = BUS_USERS / f"{USER}.nk"

PRIVATE_UMASK = 0o077
"""Within a directory that others may enter, such as a volume's root, files are still their owner's alone."""


class RunningService(msgspec.Struct, frozen=True, kw_only=True):
    """One service as it announced itself. `url` is an origin."""

    service: str
    url: str
    pid: int
    metrics_url: str | None = None


def announce(running: RunningService) -> None:
    """Print the service's one line on standard output, for its parent. Nobody has to read it."""
    with contextlib.suppress(OSError):
        os.write(1, encode(running) + b"\n")


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    """The process id of `spotinference up`."""
    services: dict[str, RunningService]


def write(data_dir: Path, suite: Suite) -> None:
    """Write the file atomically, readable by its owner alone. Raises `OSError` if the disk is full."""
    write_private(data_dir / FILE, encode(suite))


def write_private(path: Path, data: bytes) -> None:
    """Replace a file atomically by one that only its owner may read."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)  # one left over may have other permissions
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    partial.replace(path)


def open_data_dir(data_dir: Path) -> Path:
    """Create the data directory for its owner alone, as is what this process creates from now on. Return its path.

    A directory of another user, such as a volume's root that a group may write, keeps its permissions.

    Raises:
        Misconfigured: It cannot be created, or is not writable.
    """
    os.umask(PRIVATE_UMASK)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = data_dir.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            data_dir.chmod(0o700)
    except OSError as error:
        raise Misconfigured(f"--data-dir {data_dir}: {error.strerror}: choose another one") from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise Misconfigured(f"--data-dir {data_dir}: not writable by this user: choose another, or change its owner")
    return data_dir.resolve()


def read(data_dir: Path) -> Suite | None:
    """Return the suite that runs there; None if none does. Raises `Misconfigured` if that cannot be determined."""
    try:
        return decode((data_dir / FILE).read_bytes(), Suite)
    except (FileNotFoundError, NotADirectoryError, Unreadable):
        return None
    except PermissionError as error:
        raise Misconfigured(f"--data-dir {data_dir}: it belongs to another user: run this as that user") from error
    except OSError as error:
        raise Misconfigured(f"{data_dir / FILE}: {error.strerror}: remove it, and restart the suite") from error


def remove(data_dir: Path) -> None:
    """Remove the file. If that fails, its readers find that no suite runs."""
    with contextlib.suppress(OSError):
        (data_dir / FILE).unlink()


def bus_access(config: Config, data_dir: Path, role: str) -> BusAccess:
    """Return how a service, or a command as `operator` or `setup`, reaches the bus.

    The servers come from the environment (a URL may hold a password), the configuration or the running suite.
    """
    bus = config.bus
    if urls := _named_servers(config):
        access = BusAccess(
            urls=urls,
            ca_file=bus.ca_file,
            creds_file=bus.creds_file,
            nkey_file=bus.nkey_file,
            url_file=environment_file(BUS_URL_VARIABLE),
        )
    else:
        access = _embedded(data_dir)
    return access.for_role(role)


def has_named_bus(config: Config) -> bool:
    """Return whether the bus is a server that somebody else runs."""
    return bool(_named_servers(config))


def _named_servers(config: Config) -> tuple[str, ...]:
    if url := environment(BUS_URL_VARIABLE):
        return BusAccess.of(url).urls
    return config.bus.urls or ((config.bus.url,) if config.bus.url else ())


def _embedded(data_dir: Path) -> BusAccess:
    suite = read(data_dir)
    if suite is None or "bus" not in suite.services:
        raise Misconfigured(
            f"no bus: [bus] url is not set, and no suite runs in {data_dir}: start one with `spotinference up`, "
            "or name its data directory with --data-dir"
        )
    return BusAccess(urls=(suite.services["bus"].url,), nkey_file=data_dir / BUS_KEYS)
