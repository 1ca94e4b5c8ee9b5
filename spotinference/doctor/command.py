"""The command `doctor`."""

import sys

import click

from spotinference.context import Context, suite_options
from spotinference.doctor.collector import collect_links
from spotinference.option_types import DayParam
from spotinference.terminal import echo_json, print_line
from spotinference.times import today


@click.command()
@click.option("--day", type=DayParam(), help="UTC day.  [default: today]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def doctor(context: Context, *, day: str | None, as_json: bool) -> None:
    """Verify a day's counts, from the engines and the gateways to the ledger and the report. Changes nothing.

    Exits with status 1 if anything is wrong.
    """
    day = day or today()
    links = context.run_with_bus(lambda bus: collect_links(bus, context, day))
    is_ok = all(link.diagnostic.level != "wrong" for link in links)
    if as_json:
        fields = [
            {
                "link": link.name,
                "level": link.diagnostic.level,
                "text": link.diagnostic.text,
                "figures": dict(link.figures),
            }
            for link in links
        ]
        echo_json({"day": day, "ok": is_ok, "links": fields})
    else:
        for link in links:
            print_line(f"{link.diagnostic.level:<5} {link.name:<10} {link.diagnostic.text}")
    sys.exit(0 if is_ok else 1)
