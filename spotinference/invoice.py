"""`spotinference invoice`: a provider's file into the books."""

import hashlib
import sys
from pathlib import Path

import click

from shared.bus.ports import Bus
from shared.bus.subjects import BILLING_IMPORT
from shared.bus.topology import INVOICES
from shared.errors import Misconfigured
from shared.messages.invoices import DeliveredFile, ImportAnswer, ImportRequest
from spotinference.context import Context, ask, suite_options

IMPORT_SECONDS = 120.0


@click.group()
def invoice() -> None:
    """Provider invoices."""


@invoice.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--source", required=True, help="Who delivered it; a later file of the same source replaces this one.")
@suite_options
def import_(context: Context, file: Path, source: str) -> None:
    """Read a FOCUS file (CSV, also gzipped). All of it, or nothing and exit status 1."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{file}: unreadable: {error.strerror}") from error
    answer = context.on_bus(lambda bus: deliver(bus, data, file.name, source))
    for refusal in answer.refusals:
        place = f"{refusal.file}:{refusal.line}" if refusal.line else refusal.file
        column = f" {refusal.column}:" if refusal.column else ""
        click.echo(f"{place}:{column} {refusal.reason}", err=True)
    if answer.refusals:
        click.echo("spotinference: nothing was imported; every figure is as it was", err=True)
        sys.exit(1)
    for snapshot in answer.snapshots:
        replaced = "  (replaces the one before)" if snapshot.replaced else ""
        click.echo(
            f"{snapshot.period_start[:10]} to {snapshot.period_end[:10]}  {snapshot.issuer}  "
            f"account {snapshot.account}  {snapshot.rows} rows  {snapshot.billed} {snapshot.currency}{replaced}"
        )
    click.echo(f"sha256 {answer.sha256}")


async def deliver(bus: Bus, data: bytes, file_name: str, source: str) -> ImportAnswer:
    """Put the file where billing keeps it, and have it read."""
    sha256 = hashlib.sha256(data).hexdigest()
    await bus.put_object(INVOICES, sha256, data)
    request = ImportRequest(source=source, files=(DeliveredFile(name=file_name, sha256=sha256),))
    return await ask(bus, BILLING_IMPORT, request, ImportAnswer, timeout=IMPORT_SECONDS)
