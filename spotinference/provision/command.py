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
    default=1,
    show_default=True,
    help="Copies of each stream, in a cluster of NATS servers.",
)
@suite_options
def provision(context: Context, replicas: int) -> None:
    """Create the streams, consumers and buckets that are missing on the bus. Safe to repeat."""

    async def work(bus: JetStreamBus) -> None:
        await provision_bus(bus, replicas=replicas)

    context.run_with_bus(work)
    print_line("the bus is provisioned")
