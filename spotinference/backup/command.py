"""The command `backup`."""

import asyncio
import os
import time
from pathlib import Path

import click

from shared.bus.jetstream import JetStreamBus
from shared.bus.jetstream_snapshot import save_stream
from shared.bus.topology import BACKED_UP
from spotinference.backup.databases import save_database, sqlite_files
from spotinference.backup.files import Manifest, create_folder, stream_path, write_manifest
from spotinference.context import Context, suite_options
from spotinference.keys.store import save_keys
from spotinference.terminal import print_line


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@suite_options
def backup(context: Context, folder: Path) -> None:
    """Save the databases, and what only the bus has, in the new folder DIR.

    The suite goes on meanwhile. A PostgreSQL database is saved with pg_dump, before this command.
    """
    files = sqlite_files(context.config(), context.data_dir.resolve())
    create_folder(folder)
    manifest = context.run_with_bus(
        lambda bus: save(bus, folder, [file for file in files if file.exists()]), role="backup"
    )
    print_line(
        f"saved {len(manifest.keys)} keys, {len(manifest.streams)} streams and {len(manifest.databases)} databases"
    )
    if not manifest.databases:
        print_line(
            "no SQLite database is on this host: save the database with pg_dump: it has ledger, books and accounts",
            err=True,
        )


async def save(bus: JetStreamBus, folder: Path, databases: list[Path]) -> Manifest:
    """Save the databases first: what the bus has beyond them is read again after a restore."""
    began_at = time.time()
    for database in databases:
        await asyncio.to_thread(save_database, database, folder)
    streams = {}
    for name in BACKED_UP:
        descriptor = os.open(stream_path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            streams[name] = await save_stream(bus, name, file)
    manifest = Manifest(
        at=began_at,
        streams=streams,
        keys=await save_keys(bus),
        databases=tuple(database.name for database in databases),
    )
    write_manifest(folder, manifest)
    return manifest
