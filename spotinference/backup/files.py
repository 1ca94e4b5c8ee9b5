"""The files of a backup: one folder, written once, complete once it has its manifest."""

from pathlib import Path

import msgspec

from shared.bus.jetstream_snapshot import StreamDescription
from shared.errors import Rejected
from shared.key_records import SavedKey
from shared.messages.codec import Unreadable, decode, encode
from shared.runtime.suite_file import write_private

MANIFEST = "manifest.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the folder holds. It is written last."""

    at: float
    """Unix seconds at which the backup began."""
    streams: dict[str, StreamDescription]
    keys: tuple[SavedKey, ...]
    databases: tuple[str, ...]
    """Names of the SQLite files."""


def create_folder(folder: Path) -> None:
    """Create the folder, readable by this user alone. Raises `Rejected` unless it is new or empty."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Rejected(f"{folder}: not empty: name a new folder for each backup")
        folder.chmod(0o700)
    except OSError as error:
        raise Rejected(f"{folder}: {error.strerror}") from error


def stream_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.stream"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_private(folder / MANIFEST, encode(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Raises `Rejected` for a folder that is no complete backup."""
    try:
        manifest = decode((folder / MANIFEST).read_bytes(), Manifest)
    except FileNotFoundError:
        raise Rejected(f"{folder}: no complete backup: {MANIFEST} is missing") from None
    except (OSError, Unreadable) as error:
        raise Rejected(f"{folder / MANIFEST}: {error}") from error
    files = [*(stream_path(folder, name) for name in manifest.streams), *(folder / name for name in manifest.databases)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise Rejected(f"{folder}: no complete backup: {', '.join(missing)} missing")
    return manifest
