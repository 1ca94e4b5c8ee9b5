"""`spotinference check`: is the configuration right, and what of it can be reached from here?"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import click

from services.waker.core.events import Observation
from shared.config.sections import Config
from spotinference.check.engines import check_engines
from spotinference.check.local import _bus, _command, _costs, _database, _ports
from spotinference.context import Context, suite_options
from spotinference.diagnostics import Finding, ok
from spotinference.terminal import say


@click.command()
@suite_options
def check(context: Context) -> None:
    """Read the configuration, say what is wrong, try what can be reached. It changes nothing."""
    config = context.config()
    _tell(ok(f"{context.path}: {len(config.machine)} machines, {len(config.model)} models"))
    sys.exit(asyncio.run(_tried(config, context.data_dir)))


async def _tried(config: Config, data_dir: Path) -> int:
    """The exit status. Each part is tried whatever became of those before it."""
    status = 0
    async for findings in _parts(config, data_dir):
        for finding in findings:
            _tell(finding)
            if finding.level == "wrong":
                status = 1
    return status


def _tell(finding: Finding) -> None:
    say(f"{finding.level:<5} {finding.text}", err=finding.level == "wrong")


async def _parts(config: Config, data_dir: Path) -> AsyncIterator[list[Finding]]:
    yield [finding for machine in config.machine if (finding := _command(machine)) is not None]
    yield _costs(config)
    yield _ports(config, data_dir)
    bus, records = await _bus(config, data_dir)
    yield bus
    yield await _database(config)
    observations: dict[str, Observation] = {}
    if any(tier.traits.account_hint is not None for tier in config.tier):
        from spotinference.check.accounts import check_accounts

        accounts, observations = await check_accounts(config, data_dir)
        yield accounts
    yield await check_engines(config, observations, records)
