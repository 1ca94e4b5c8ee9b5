"""The command `spot-watch`."""

import asyncio
import signal
import time
from collections.abc import Callable

import click

from shared.bus import subjects
from shared.bus.access import BusAccess
from shared.bus.jetstream import connect
from shared.errors import BusError, Misconfigured
from shared.messages.codec import encode
from shared.messages.machine import MachineNotice
from shared.runtime import suite_file
from spotinference.context import Context, suite_options
from spotinference.spot_watch.metadata import BASE_URL, Metadata, MetadataError
from spotinference.terminal import print_line

POLL_SECONDS = 5.0
"""AWS recommends it: a notice comes two minutes ahead."""
BUS_SECONDS = 5.0
"""To connect to the bus. After that the notice is looked for again and the next attempt is made."""


@click.command(name="spot-watch")
@click.argument("machine")
@click.option("--metadata-url", default=BASE_URL, show_default=True, help="EC2's metadata service.")
@suite_options
def spot_watch(context: Context, machine: str, metadata_url: str) -> None:
    """Watch for EC2's notice that it takes back MACHINE, on which this runs, and tell the waker.

    Runs until SIGTERM. Needs only [bus] in the configuration, with the key that `nats-config --machine` makes.
    """
    access = suite_file.bus_access(context.config(), context.data_dir, "machine")
    if access.nkey_file is not None and access.user != machine:
        raise Misconfigured(f"{access.nkey_file} is the key of {access.user}: use that of {machine}")
    asyncio.run(_run_until_signal(Watch(access, machine, Metadata(metadata_url))))


async def _run_until_signal(watch: "Watch") -> None:
    watching = asyncio.ensure_future(watch.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, watching.cancel)
    await asyncio.wait([watching])
    if not watching.cancelled():
        watching.result()


class Watch:
    """Looks for a notice for ever. It connects to the bus only while there is one, and repeats it until it ends."""

    def __init__(
        self, access: BusAccess, machine: str, metadata: Metadata, *, now: Callable[[], float] = time.time
    ) -> None:
        self._access = access
        self._machine = machine
        self._metadata = metadata
        self._now = now
        self._last: str | None = None

    async def run(self) -> None:
        while True:
            if (notice := await self._fetch_notice()) is not None:
                await self._report(notice)
            await asyncio.sleep(POLL_SECONDS)

    async def _report(self, notice: MachineNotice) -> None:
        """Send the notice once. Nothing confirms it: the next round repeats it."""
        self._print(f"EC2 takes {self._machine} back: {notice.action} in {notice.at - self._now():.0f} s", notice.at)
        try:
            async with connect(self._access, name="spot-watch", wait=BUS_SECONDS) as bus:
                await bus.publish_volatile(subjects.machine_notice(notice.machine), encode(notice))
        except (BusError, Misconfigured) as error:
            self._print(f"the notice could not be sent, it is tried again: {error}")

    async def _fetch_notice(self) -> MachineNotice | None:
        try:
            return await asyncio.to_thread(self._metadata.notice, self._machine, self._now())
        except MetadataError as error:
            self._print(str(error))
            return None

    def _print(self, line: str, topic: object = None) -> None:
        """Print a line on standard error unless it is the same again, so that a log stays small."""
        key = str(topic or line)
        if key != self._last:
            self._last = key
            print_line(line, err=True)
