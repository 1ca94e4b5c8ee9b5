"""Files that a command was told to write: whole or not at all."""

import os
from pathlib import Path

from shared.errors import Misconfigured


def write(option: str, path: Path, data: bytes) -> None:
    """In place of what was there. `Misconfigured` names the option; the old file then stays as it was."""
    place = path.resolve()  # a link stays a link
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        if place.exists() and not place.is_file():
            place.write_bytes(data)  # a pipe or a device is written to, not replaced
            return
        try:
            beside.write_bytes(data)
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise Misconfigured(f"{option} {path}: {error.strerror}") from error
