"""The command `invoice`."""

import sys
from decimal import Decimal, InvalidOperation

import click
import msgspec

from services.billing.adapters.file_sources import open_file_source
from shared.bus.request import request_reply
from shared.bus.subjects import BILLING_INVOICES, BILLING_PAYABLE
from shared.messages.invoices import Invoices, InvoicesQuery, PayableNote
from spotinference.context import Context, exit_with_error, suite_options
from spotinference.invoice.importer import import_deliveries
from spotinference.invoice.view import (
    bill_name,
    imported_lines,
    imported_table,
    rejection_lines,
    sources_table,
    standings_table,
    warning_lines,
)
from spotinference.terminal import echo_json, print_line, print_table, progress


@click.group()
def invoice() -> None:
    """Import provider invoices and reconcile them."""


@invoice.command("import")
@click.argument("where", metavar="FILE|FOLDER|s3://BUCKET/PREFIX")
@click.option(
    "--source",
    required=True,
    help="Name of the provider's export. A later delivery of the same source replaces this one.",
)
@click.option("--parts", is_flag=True, help="Treat the files as parts of one snapshot, even if they share charges.")
@click.option(
    "--round", "rounds", is_flag=True, help="Round billed costs that have more than 12 decimals, half to even."
)
@click.option("--region", help="Region of the S3 bucket.  [default: as boto3 finds it]")
@click.option("--endpoint-url", help="Endpoint of an S3-compatible service other than AWS.")
@suite_options
def import_(
    context: Context,
    where: str,
    *,
    source: str,
    parts: bool,
    rounds: bool,
    region: str | None,
    endpoint_url: str | None,
) -> None:
    """Import FOCUS, CUR 2.0 or date,resource,cost,currency files (CSV, gzip or Parquet).

    If a folder has AWS or Azure manifests, the newest files that they list are imported, one delivery per billing
    period. From any other folder, all files are imported as one delivery. A delivery is imported completely or not at
    all; if one is rejected, the exit status is 1.
    """
    files = open_file_source(where, region=region, endpoint_url=endpoint_url)
    with progress(where) as on_progress:
        try:
            answers = context.run_with_bus(
                lambda bus: import_deliveries(bus, files, source, on_progress, parts=parts, rounds=rounds)
            )
        except KeyboardInterrupt:
            exit_with_error(
                "interrupted: billing may still finish the import; `spotinference invoice list` shows whether it did"
            )
    for answer in answers:
        for line in imported_lines(answer):
            print_line(line)
        for line in (*warning_lines(answer), *rejection_lines(answer)):
            print_line(line, err=True)
    if answers[-1].refusals:
        what = "nothing" if len(answers) == 1 else "nothing of this delivery"
        print_line(f"spotinference: {what} was imported and no figure has changed", err=True)
        sys.exit(1)


@invoice.command(context_settings={"ignore_unknown_options": True})  # a credit's amount begins like an option
@click.argument("words", metavar="[INVOICE] AMOUNT", nargs=-1, required=True)
@click.option("--source", required=True, help="Source of the charges.")
@click.option("--period", metavar="YYYY-MM", help="Instead of INVOICE: the month's charges that name no invoice.")
@click.option("--issuer", help="Issuer, if several issuers have an invoice with this number or charges without one.")
@click.option("--account", help="With --period: account, if several accounts have such charges.")
@click.option("--voids", metavar="OTHER", help="Invoice that this one replaces. Its charges no longer count.")
@suite_options
def payable(
    context: Context,
    words: tuple[str, ...],
    *,
    source: str,
    period: str | None,
    issuer: str | None,
    account: str | None,
    voids: str | None,
) -> None:
    """Record the amount to pay, in the currency of the charges: of an invoice, or of a month's charges without one.

    A later amount for the same invoice or month replaces this one.
    """
    *invoice_ids, amount = words
    if len(invoice_ids) != (period is None):
        raise click.UsageError("expected INVOICE AMOUNT, or --period YYYY-MM AMOUNT")
    invoice_id = "".join(invoice_ids)
    try:
        exact = Decimal(amount)
    except InvalidOperation as error:
        raise click.UsageError(f"AMOUNT: expected a number such as 1234.56, got {amount!r}") from error
    try:
        note = PayableNote(
            source=source,
            invoice_id=invoice_id,
            amount=exact,
            issuer=issuer,
            voids=voids,
            period=period,
            account=account,
        )
    except ValueError as error:
        raise click.UsageError(f"AMOUNT: {error}") from None
    invoices = context.run_with_bus(lambda bus: request_reply(bus, BILLING_PAYABLE, note, Invoices))
    invoice_ids_shown = (None,) if period else (invoice_id, voids)
    print_table(
        standings_table(
            [one for one in invoices.standings if one.source == source and one.invoice_id in invoice_ids_shown]
        )
    )


@invoice.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def list_(context: Context, *, as_json: bool) -> None:
    """List the imports, newest first, and the state of the configured sources. Only active imports count."""
    invoices = _invoices(context)
    if as_json:
        echo_json(
            {
                "imported": [msgspec.to_builtins(one) for one in invoices.imported],
                "left_out": invoices.left_out,
                "sources": [msgspec.to_builtins(one) for one in invoices.sources],
            }
        )
        return
    print_table(imported_table(invoices.imported))
    if invoices.left_out:
        print_line(f"{invoices.left_out:,} older imports, which no longer count, are not shown")
    if invoices.sources:
        print_line()
        print_table(sources_table(invoices.sources))


@invoice.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def check(context: Context, *, as_json: bool) -> None:
    """Compare each invoice's charges with the amount to pay. If they differ by more than 0.01, exit with status 1."""
    standings = _invoices(context).standings
    wrong = [standing for standing in standings if standing.state == "differs"]
    if as_json:
        echo_json({"ties": not wrong, "invoices": [msgspec.to_builtins(one) for one in standings]})
    else:
        print_table(standings_table(standings))
        for one in wrong:
            print_line(
                f"spotinference: {one.issuer}, {bill_name(one)}: the charges are {one.billed} {one.currency}, "
                f"the amount to pay is {one.payable}: import the newest file, or correct the amount",
                err=True,
            )
    if wrong:
        sys.exit(1)


def _invoices(context: Context) -> Invoices:
    return context.run_with_bus(lambda bus: request_reply(bus, BILLING_INVOICES, InvoicesQuery(), Invoices))
