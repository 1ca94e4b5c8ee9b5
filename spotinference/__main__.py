"""The operator's command. Each subcommand lives in a module of its own."""

import asyncio
import logging
import sys
from pathlib import Path

import click

from shared.bus.jetstream import JetStreamBus
from shared.runtime import logs
from spotinference.context import Context, suite_options


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spotinference")
def main() -> None:
    """Tokens from open-weights models behind OpenAI's API, on GPUs that sleep when nobody uses them."""
    logs.configure("spotinference", level=logging.WARNING)


@main.command()
@suite_options
def up(context: Context) -> None:
    """Run the whole suite on this host; Ctrl-C drains and stops it, twice stops at once."""
    from spotinference.up.run import run

    sys.exit(run(context.config(), context.path, context.data_dir))


@main.command()
@click.option("--replicas", default=1, show_default=True, help="Copies of each stream in a cluster of NATS servers.")
@suite_options
def provision(context: Context, replicas: int) -> None:
    """Make the bus have every stream, consumer and bucket; as often as one likes."""
    from shared.bus.provision import provision as make

    async def work(bus: JetStreamBus) -> None:
        await make(bus, replicas=replicas)

    context.on_bus(work)
    click.echo("the bus is provisioned")


@main.command()
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Keep the demo's files here; a new folder when absent."
)
def demo(data_dir: Path | None) -> None:
    """The whole job end to end, on real parts, shown step by step."""
    from spotinference.demo.steps import run

    sys.exit(asyncio.run(run(data_dir)))


def _add_commands() -> None:
    from spotinference.check import check
    from spotinference.fleet import fleet, journal
    from spotinference.invoice import invoice
    from spotinference.keys import keys
    from spotinference.report import report
    from spotinference.usage import usage

    for command in (check, fleet, journal, keys, usage, invoice, report):
        main.add_command(command)


_add_commands()

if __name__ == "__main__":
    main()
