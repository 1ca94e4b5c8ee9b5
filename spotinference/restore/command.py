"""The command `restore`."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from services.site.adapters.restored_accounts import end_sessions
from services.site.adapters.schema import SITE_FILE
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.jetstream_snapshot import delete_streams, make_room, restore_stream
from shared.bus.provision import provision
from shared.errors import BusError, Rejected, SpotinferenceError
from shared.key_records import merge_keys
from shared.runtime import suite_file
from spotinference.backup.databases import check_free, copy_database, put_in_place, sqlite_file, sqlite_files
from spotinference.backup.files import Manifest, read_manifest, stream_path
from spotinference.context import BUS_SECONDS, Context, suite_options
from spotinference.terminal import print_line
from spotinference.times import format_time
from spotinference.up.environment import child_environment
from spotinference.up.nats_server import NatsServer


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@suite_options
def restore(context: Context, folder: Path) -> None:
    """Restore the backup in DIR into an empty bus and in the place of databases that are gone.

    Stop all services first. A PostgreSQL database is restored with pg_restore. A key stays revoked if it is revoked
    here or in the backup. On the site all sessions end; people who were blocked after the backup have to be blocked
    again.
    """
    manifest = read_manifest(folder)
    targets = [
        file for file in sqlite_files(context.config(), context.data_dir.resolve()) if file.name in manifest.databases
    ]
    copies: dict[Path, Path] = {}
    has_accounts = False
    try:
        for target in targets:  # a full disk shows before the bus is touched
            copy = copy_database(folder, target)
            copies[copy] = target
            if target == sqlite_file(context.config(), context.data_dir.resolve(), SITE_FILE):
                has_accounts = True
                _end_sessions(copy, manifest.at)
            check_free(copy, target)
        keys = asyncio.run(_restore(context, folder, manifest, copies))
    finally:
        for copy in copies:
            copy.unlink(missing_ok=True)
    print_line(f"restored {keys} keys, {len(manifest.streams)} streams and {len(targets)} databases")
    if has_accounts:
        since = format_time(manifest.at)
        print_line(f"everybody has to sign in to the site again; whom you blocked after {since}, block again")


def _end_sessions(copy: Path, at: float) -> None:
    try:
        end_sessions(copy, at)
    except sqlite3.Error as error:
        raise Rejected(f"{copy}: {error}") from error


async def _restore(context: Context, folder: Path, manifest: Manifest, copies: dict[Path, Path]) -> int:
    """Restore everything, the databases last. Returns how many keys changed."""
    config = context.config().bus
    async with _empty_bus(context) as bus:
        missing = await make_room(bus, manifest.streams)
        async with _all_or_none(bus, missing):
            for name in missing:
                with stream_path(folder, name).open("rb") as file:
                    await restore_stream(bus, name, manifest.streams[name], file, replicas=config.replicas)
            await provision(bus, replicas=config.replicas, usage_bytes=config.usage_max_bytes)
            keys = (await merge_keys(bus, manifest.keys)).changed
            put_in_place(copies)
        return keys


@asynccontextmanager
async def _all_or_none(bus: JetStreamBus, streams: list[str]) -> AsyncIterator[None]:
    """Delete the restored streams if the body fails or is interrupted. Keys stay: they are merged again."""
    try:
        yield
    except BaseException as error:
        try:
            await delete_streams(bus, streams)
        except BusError:
            state = "a part of the backup is on the bus, so do not start the suite"
        else:
            state = "it has been undone"
        if isinstance(error, (SpotinferenceError, OSError)):
            raise SpotinferenceError(f"{error}: the restore is incomplete: {state}: repeat the command") from error
        raise


@asynccontextmanager
async def _empty_bus(context: Context) -> AsyncIterator[JetStreamBus]:
    """The configured bus, or the server of a suite that does not run, started for this."""
    if suite_file.has_named_bus(context.config()) or suite_file.read(context.data_dir) is not None:
        access = suite_file.bus_access(context.config(), context.data_dir, "setup")
        async with connect(access, name="spotinference", wait=BUS_SECONDS) as bus:
            yield bus
        return
    data_dir = suite_file.open_data_dir(context.data_dir)
    (data_dir / "logs").mkdir(exist_ok=True)
    server = NatsServer(
        data_dir / "bus", data_dir / "logs" / "bus.log", child_environment("bus", os.environ, context.config())
    )
    await server.start()
    try:
        async with connect(server.access("setup"), name="spotinference", wait=BUS_SECONDS) as bus:
            yield bus
    finally:
        await server.stop()
