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
    help=f"Keep the demo's files here, in a new folder. [default: {DEFAULT_FOLDER}, emptied first]",
)
def demo(data_dir: Path | None) -> None:
    """The whole job end to end, on real parts, shown step by step."""
    sys.exit(asyncio.run(_interruptible(data_dir)))


async def _interruptible(data_dir: Path | None) -> int:
    """What ends the demo ends it as Ctrl-C does: with the suite that it started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.getsignal(signal.SIGINT))
    return await run(data_dir)
