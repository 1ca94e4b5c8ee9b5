"""The command `check`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import click

from services.waker.core.events import Observation
from shared.config.sections import Config
from spotinference.bench.run import KEY_VARIABLE
from spotinference.check.engines import check_engines
from spotinference.check.local import check_bus, check_database, check_ports, check_prices, check_program, check_site
from spotinference.context import Context, suite_options
from spotinference.diagnostics import Diagnostic, ok
from spotinference.terminal import print_line


@click.command()
@click.option("--machine", metavar="ID", help="Wake this machine instead, time each phase, and put it to sleep again.")
@click.option("--key", help=f"API key for one request through the gateway; with --machine.  [env: {KEY_VARIABLE}]")
@click.option("--url", help="Origin of the gateway; with --machine.  [default: the running one]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --machine.")
@suite_options
def check(context: Context, *, machine: str | None, key: str | None, url: str | None, as_json: bool) -> None:
    """Validate the configuration and try everything that it connects to. Changes nothing, except with --machine.

    Exits with status 1 if anything is wrong.
    """
    config = context.config()
    if machine is not None:
        from spotinference.check.machine import check_machine
        from spotinference.check.machine_view import print_report

        report = context.run_with_bus(lambda bus: check_machine(bus, context, machine, key=key, url=url))
        print_report(report, as_json=as_json)
        sys.exit(1 if report.faults else 0)
    if key is not None or url is not None or as_json:
        raise click.UsageError("--key, --url and --json need --machine")
    _print(ok(f"{context.path}: {len(config.machine)} machines, {len(config.model)} models"))
    sys.exit(asyncio.run(_run_checks(config, context.data_dir)))


async def _run_checks(config: Config, data_dir: Path) -> int:
    """Run all checks, whatever the results of the previous ones, and return the exit status."""
    status = 0
    async for diagnostics in _all_checks(config, data_dir):
        for diagnostic in diagnostics:
            _print(diagnostic)
            if diagnostic.level == "wrong":
                status = 1
    return status


def _print(diagnostic: Diagnostic) -> None:
    print_line(f"{diagnostic.level:<5} {diagnostic.text}", err=diagnostic.level == "wrong")


async def _all_checks(config: Config, data_dir: Path) -> AsyncIterator[list[Diagnostic]]:
    yield [diagnostic for machine in config.machine if (diagnostic := check_program(machine)) is not None]
    yield check_prices(config)
    yield check_site(config)
    yield check_ports(config, data_dir)
    bus, records = await check_bus(config, data_dir)
    yield bus
    yield await check_database(config)
    observations: dict[str, Observation] = {}
    if any(tier.traits.account_hint is not None for tier in config.tier):
        from spotinference.check.accounts import check_accounts

        accounts, observations = await check_accounts(config, data_dir)
        yield accounts
    yield await check_engines(config, observations, records)
