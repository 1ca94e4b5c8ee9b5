"""The command `check`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import click

from services.waker.core.events import Observation
from shared.config.sections import Config
from spotinference.check.engines import check_engines
from spotinference.check.local import check_bus, check_database, check_ports, check_prices, check_program
from spotinference.context import Context, suite_options
from spotinference.diagnostics import Diagnostic, ok
from spotinference.terminal import print_line


@click.command()
@suite_options
def check(context: Context) -> None:
    """Validate the configuration and try everything that it connects to. Changes nothing.

    Exits with status 1 if anything is wrong.
    """
    config = context.config()
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
