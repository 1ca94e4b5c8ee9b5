"""`spotinference provision`: the bus gets what the services need on it."""

import click

from shared.bus.jetstream import JetStreamBus
from shared.bus.provision import provision as make
from spotinference.context import Context, suite_options
from spotinference.terminal import print_line


@click.command()
@click.option("--replicas", default=1, show_default=True, help="Copies of each stream in a cluster of NATS servers.")
@suite_options
def provision(context: Context, replicas: int) -> None:
    """Make the bus have every stream, consumer and bucket; as often as one likes."""

    async def work(bus: JetStreamBus) -> None:
        await make(bus, replicas=replicas)

    context.run_with_bus(work)
    print_line("the bus is provisioned")
