"""The command `provision`."""

import click

from shared.bus.jetstream import JetStreamBus
from shared.bus.provision import provision as provision_bus
from spotinference.context import Context, suite_options
from spotinference.terminal import print_line


@click.command()
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    default=None,
    help="Copies of each stream, in a cluster of NATS servers.  [default: [bus] replicas]",
)
@suite_options
def provision(context: Context, replicas: int | None) -> None:
    """Create the streams, consumers and buckets that are missing on the bus. Safe to repeat.

    A stream that has more copies keeps them.
    """
    config = context.config().bus
    copies = config.replicas if replicas is None else replicas

    async def work(bus: JetStreamBus) -> None:
        await provision_bus(bus, replicas=copies, usage_bytes=config.usage_max_bytes)

    context.run_with_bus(work, role="setup")
    print_line("the bus is provisioned")
