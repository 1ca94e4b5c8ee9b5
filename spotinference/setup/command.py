"""The command `setup`."""

from collections.abc import Iterator
from pathlib import Path

import click

from services.billing.adapters import schema as books
from services.meter.adapters import schema as ledger
from services.site.adapters import schema as site
from shared import database
from shared.bus.jetstream import JetStreamBus
from shared.bus.provision import provision
from shared.config.sections import Config
from shared.errors import SchemaMismatch, SpotinferenceError
from shared.runtime.suite_file import open_data_dir
from spotinference.context import Context, suite_options
from spotinference.setup.keys import describe_merge, return_keys
from spotinference.terminal import print_line


@click.command()
@suite_options
def setup(context: Context) -> None:
    """Prepare the bus and the databases for this version: create and migrate what is missing or older.

    Keys that the bus lost come back from the ledger's copy, and those that are revoked there are revoked again. Safe
    to repeat, and to run beside another one. It needs only the extra `setup` of the package.
    """
    config = context.config()
    data_dir = open_data_dir(context.data_dir)
    ledger_url = database.database_url(config, data_dir, ledger.LEDGER_FILE)

    async def work(bus: JetStreamBus) -> None:
        await provision(bus, replicas=config.bus.replicas, usage_bytes=config.bus.usage_max_bytes)
        print_line("the bus is provisioned")
        for name, url, scripts, version_table in _schemas(config, data_dir):
            try:
                revisions = await database.migrate(url, scripts, version_table=version_table)
            except SchemaMismatch as error:
                raise SpotinferenceError(f"the {name}: {error}") from error
            except database.DATABASE_ERRORS as error:
                where = f"the {name}: {database.without_secrets(url)}"
                raise SpotinferenceError(f"{where}: {database.describe(error)}: repeat the command") from error
            print_line(f"the schema of the {name} is at revision {revisions.head}")
        print_line(describe_merge(await return_keys(bus, ledger_url)))

    context.run_with_bus(work, role="setup")


def _schemas(config: Config, data_dir: Path) -> Iterator[tuple[str, str, Path, str]]:
    """Yield each database's name, URL, migrations and version table."""
    url = database.database_url
    yield "ledger", url(config, data_dir, ledger.LEDGER_FILE), ledger.MIGRATIONS, ledger.VERSION_TABLE
    yield "books", url(config, data_dir, books.BOOKS_FILE), books.MIGRATIONS, books.VERSION_TABLE
    yield "site", url(config, data_dir, site.SITE_FILE), site.MIGRATIONS, site.VERSION_TABLE
