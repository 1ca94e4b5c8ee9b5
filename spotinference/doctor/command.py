"""`spotinference doctor`: the whole chain of a day's count, link by link, from the engines to the books."""

import sys

import click

from spotinference.context import Context, suite_options
from spotinference.doctor.collector import collect_links
from spotinference.terminal import echo_json, print_line
from spotinference.times import today


@click.command()
@click.option("--day", default=today, show_default="today", help="A UTC day, YYYY-MM-DD.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with a link each.")
@suite_options
def doctor(context: Context, day: str, *, as_json: bool) -> None:
    """Compare engines, gateways, ledger and books of a day. It changes nothing; anything wrong makes the status 1."""
    found = context.run_with_bus(lambda bus: collect_links(bus, context, day))
    holds = all(link.diagnostic.level != "wrong" for link in found)
    if as_json:
        told = [
            {"link": k.name, "level": k.diagnostic.level, "text": k.diagnostic.text, "figures": dict(k.figures)}
            for k in found
        ]
        echo_json({"day": day, "ok": holds, "links": told})
    else:
        for link in found:
            print_line(f"{link.diagnostic.level:<5} {link.name:<10} {link.diagnostic.text}")
    sys.exit(0 if holds else 1)
