"""Files that a command writes: complete, or not at all."""

import os
from pathlib import Path

from shared.errors import Misconfigured


def write_output(option: str, path: Path, data: bytes) -> None:
    """Replace the file at `path`.

    Raises:
        Misconfigured: the file cannot be written; names the option. An existing file is unchanged.
    """
    target = path.resolve()  # a link stays a link
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a pipe or a device is written to, not replaced
            return
        try:
            temporary.write_bytes(data)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise Misconfigured(f"{option} {path}: {error.strerror}") from error
