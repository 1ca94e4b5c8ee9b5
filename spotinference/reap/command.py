"""The command `reap`."""

import asyncio
import sys

import click
import msgspec

from services.waker.adapters.probe import HttpProber
from services.waker.ports import Provider
from services.waker.wiring import build_provider
from shared.config.fleet import Machine
from shared.config.providers import ProviderName
from shared.config.sections import Config
from shared.engine_keys import EngineKeys
from shared.errors import Misconfigured
from shared.runtime import suite_file
from spotinference.context import Context, suite_options
from spotinference.option_types import DurationParam
from spotinference.reap.reaper import Reaper
from spotinference.reap.rule import Limits
from spotinference.reap.signs import BusSigns
from spotinference.terminal import print_line


@click.command()
@click.option(
    "--after",
    type=DurationParam(),
    default="30m",
    show_default=True,
    help="How long no waker may have spoken for a machine.",
)
@click.option("--yes", is_flag=True, help="Watch that long, and stop the machines. Otherwise only show them.")
@suite_options
def reap(context: Context, after: float, *, yes: bool) -> None:
    """Stop machines at EC2 and Hyperstack that are billed while nobody speaks for them.

    Run it outside the cluster with credentials of its own, such as a CronJob. It touches no machine that is not
    configured.
    """
    if asyncio.run(reap_machines(context, after, is_confirmed=yes)):
        sys.exit(1)


async def reap_machines(context: Context, after_s: float, *, is_confirmed: bool) -> bool:
    """Preview, or watch and stop. Returns whether something failed."""
    config = cloud_config(context.config())
    providers: dict[ProviderName, Provider] = {}
    is_missing = False
    for name in sorted({tier.provider for tier in config.tier}):
        try:
            providers[name] = build_provider(name, config, context.data_dir)
        except Misconfigured as error:  # the machines of the others are billed too
            is_missing = True
            print_line(f"{name} cannot be observed: {error}")
    prober = HttpProber(EngineKeys(config).find)
    machines: dict[str, tuple[Machine, ProviderName]] = {
        machine.id: (machine, config.tiers[machine.tier].provider) for machine in config.machine
    }
    signs = BusSigns(suite_file.bus_access(config, context.data_dir, "reaper"))
    limits = Limits(after_s=after_s, wake_cap_s=float(config.wake_cap))
    reaper = Reaper(machines, providers, signs, prober, limits, show=print_line)
    try:
        await (reaper.run() if is_confirmed else reaper.preview())
    finally:
        await prober.close()
        for provider in providers.values():
            await provider.close()
    return reaper.has_failed or is_missing


def cloud_config(config: Config) -> Config:
    """Return the configuration of the machines that an account rents out, without the fleet's mark."""
    tiers = tuple(tier for tier in config.tier if tier.traits.account_hint is not None)
    names = {tier.name for tier in tiers}
    machines = tuple(machine for machine in config.machine if machine.tier in names)
    waker = msgspec.structs.replace(config.waker, fleet=None)
    return msgspec.structs.replace(config, tier=tiers, machine=machines, model=(), waker=waker)
