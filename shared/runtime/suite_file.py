"""The file in the data directory that says where the running suite is: how every command and service finds the bus."""

import contextlib
import os
from pathlib import Path

import msgspec

from shared.config.load import environment
from shared.config.sections import Config
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode, encode

FILE = "suite.json"
BUS_URL_VARIABLE = "SPOTINFERENCE_BUS_URL"


class RunningService(msgspec.Struct, frozen=True, kw_only=True):
    """One service of the suite, as it announced itself. `url` is an origin; in the file the bus's has its password."""

    service: str
    url: str
    pid: int
    metrics_url: str | None = None


def announce(running: RunningService) -> None:
    """A service's one line on standard output, for whoever started it; nobody has to read it."""
    with contextlib.suppress(OSError):
        os.write(1, encode(running) + b"\n")


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    """Of `spotinference up`."""
    services: dict[str, RunningService]


def write(data_dir: Path, suite: Suite) -> None:
    """Whole or not at all; readable by its owner alone. `OSError` where the disk is full."""
    write_private(data_dir / FILE, encode(suite))


def write_private(path: Path, data: bytes) -> None:
    """Replace a file, whole or not at all, by one that only its owner may read."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)  # another's, with other permissions
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    partial.replace(path)


def open_data_dir(data_dir: Path) -> Path:
    """Make the data directory, for its owner alone; returns its absolute path.

    A directory of somebody else's, such as a volume's root that a group may write, keeps its permissions.

    Raises:
        Misconfigured: it cannot be made, or nothing can be written there.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = data_dir.stat()
        if found.st_uid == os.geteuid() and found.st_mode & 0o077:
            data_dir.chmod(0o700)
    except OSError as error:
        raise Misconfigured(f"--data-dir {data_dir}: {error.strerror}: name another") from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise Misconfigured(f"--data-dir {data_dir}: not writable by this user: name another, or change its owner")
    return data_dir.resolve()


def read(data_dir: Path) -> Suite | None:
    """The suite that runs there, None: none does. `Misconfigured` where that cannot be known."""
    try:
        return decode((data_dir / FILE).read_bytes(), Suite)
    except (FileNotFoundError, NotADirectoryError, Unreadable):
        return None
    except PermissionError as error:
        raise Misconfigured(f"--data-dir {data_dir}: it is another user's: run this as that user") from error
    except OSError as error:
        raise Misconfigured(f"{data_dir / FILE}: {error.strerror}: remove it, and start the suite again") from error


def remove(data_dir: Path) -> None:
    """Its last word; where the disk takes none, whoever reads the file finds nobody there."""
    with contextlib.suppress(OSError):
        (data_dir / FILE).unlink()


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
