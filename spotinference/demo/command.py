"""The command `demo`."""

import asyncio
import signal
import sys
from pathlib import Path

import click

from spotinference.demo.steps import DEFAULT_FOLDER, run


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"New folder for the demo's files.  [default: {DEFAULT_FOLDER}, emptied first]",
)
def demo(data_dir: Path | None) -> None:
    """Show the whole system once, step by step, with real components. Takes about a minute."""
    sys.exit(asyncio.run(_interruptible(data_dir)))


async def _interruptible(data_dir: Path | None) -> int:
    """Make SIGTERM and SIGHUP end the demo as Ctrl-C does: together with the services that it started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.getsignal(signal.SIGINT))
    return await run(data_dir)
