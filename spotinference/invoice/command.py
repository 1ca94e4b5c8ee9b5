"""`spotinference invoice`: providers' files into the books, what is payable, and whether they tie."""

import sys
from decimal import Decimal, InvalidOperation

import click
import msgspec

from services.billing.adapters.file_sources import place
from shared.bus.subjects import BILLING_INVOICES, BILLING_PAYABLE
from shared.errors import Misconfigured
from shared.messages.invoices import Invoices, InvoicesQuery, PayableNote
from spotinference.context import Context, ask, fail, suite_options
from spotinference.invoice.importer import deliver
from spotinference.invoice.view import (
    bill_name,
    imported_lines,
    imported_table,
    refused_lines,
    sources_table,
    standings_table,
    warning_lines,
)
from spotinference.terminal import echo_json, progress, say, show


@click.group()
def invoice() -> None:
    """Provider invoices."""


@invoice.command("import")
@click.argument("where", metavar="FILE|FOLDER|s3://BUCKET/PREFIX")
@click.option("--source", required=True, help="Who delivered it: a later delivery of the source replaces this one.")
@click.option("--parts", is_flag=True, help="The files are parts of one snapshot, though they share charges.")
@click.option("--round", "rounds", is_flag=True, help="Round billed costs with more than 12 decimals, half to even.")
@click.option("--region", help="Of the S3 bucket. [by boto3's usual chain]")
@click.option("--endpoint-url", help="Of another S3 than AWS's.")
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
    """Read FOCUS, CUR 2.0 or date,resource,cost,currency (CSV, gzip, Parquet).

    Of a folder with the manifests of AWS or Azure the newest files that they list are read, one delivery for each
    period; of any other folder all files, as one delivery. A delivery counts whole, or not at all: then the exit
    status is 1.
    """
    lies = place(where, region=region, endpoint_url=endpoint_url)
    with progress(where) as tell:
        try:
            answers = context.on_bus(lambda bus: deliver(bus, lies, source, tell, parts=parts, rounds=rounds))
        except KeyboardInterrupt:
            fail("interrupted: billing may finish an import that it has begun; `spotinference invoice list` shows it")
    for answer in answers:
        for line in imported_lines(answer):
            say(line)
        for line in (*warning_lines(answer), *refused_lines(answer)):
            say(line, err=True)
    if answers[-1].refusals:
        nothing = "nothing was imported" if len(answers) == 1 else "nothing of this delivery was imported"
        say(f"spotinference: {nothing}; every figure is as it was", err=True)
        sys.exit(1)


@invoice.command(context_settings={"ignore_unknown_options": True})  # a credit's amount begins like an option
@click.argument("words", metavar="[INVOICE] AMOUNT", nargs=-1, required=True)
@click.option("--source", required=True, help="Who delivers the charges.")
@click.option("--period", metavar="YYYY-MM", help="In place of INVOICE: the month's charges that name no invoice.")
@click.option("--issuer", help="Where several issuers have an invoice of this number, or charges without one.")
@click.option("--account", help="With --period: where several accounts have such charges.")
@click.option("--voids", metavar="OTHER", help="The invoice that this one replaces: its charges no longer count.")
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
    """Note what is to be paid, in the charges' own currency: of an invoice, or for a month's charges without one.

    A later note of the same replaces this one.
    """
    *invoice_ids, amount = words
    if len(invoice_ids) != (period is None):
        raise click.UsageError("expected INVOICE AMOUNT, or --period YYYY-MM AMOUNT")
    invoice_id = "".join(invoice_ids)
    try:
        exact = Decimal(amount)
    except InvalidOperation as error:
        raise Misconfigured(f'AMOUNT: expected a number such as "1234.56", got {amount!r}') from error
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
        raise Misconfigured(f"AMOUNT: {error}") from None
    invoices = context.on_bus(lambda bus: ask(bus, BILLING_PAYABLE, note, Invoices))
    wanted = (None,) if period else (invoice_id, voids)
    show(standings_table([one for one in invoices.standings if one.source == source and one.invoice_id in wanted]))


@invoice.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@suite_options
def list_(context: Context, *, as_json: bool) -> None:
    """What was imported, the newest first; only what is active counts. And how the configured sources stand."""
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
    show(imported_table(invoices.imported))
    if invoices.left_out:
        say(f"and {invoices.left_out:,} older ones that no longer count")
    if invoices.sources:
        say()
        show(sources_table(invoices.sources))


@invoice.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@suite_options
def check(context: Context, *, as_json: bool) -> None:
    """Whether each invoice's charges tie to what is payable, to 0.01. Exit status 1 where one differs."""
    standings = _invoices(context).standings
    wrong = [standing for standing in standings if standing.state == "differs"]
    if as_json:
        echo_json({"ties": not wrong, "invoices": [msgspec.to_builtins(one) for one in standings]})
    else:
        show(standings_table(standings))
        for one in wrong:
            say(
                f"spotinference: {one.issuer}, {bill_name(one)}: its charges are {one.billed} {one.currency}, "
                f"payable are {one.payable}: import its newest file, or correct the amount",
                err=True,
            )
    if wrong:
        sys.exit(1)


def _invoices(context: Context) -> Invoices:
    return context.on_bus(lambda bus: ask(bus, BILLING_INVOICES, InvoicesQuery(), Invoices))
