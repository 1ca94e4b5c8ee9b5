"""The command `outbox`."""

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

import click

from services.gateway.adapters.outbox import Outbox
from services.gateway.adapters.response_reporter import files_in, send_files
from services.gateway.adapters.usage_sender import UsageSender
from shared.bus.jetstream import JetStreamBus
from shared.errors import Rejected
from shared.ids import uuid7
from shared.tasks import cancel_and_wait
from spotinference.context import Context, suite_options
from spotinference.terminal import Screen, print_line

PATIENCE_SECONDS = 120.0
"""Without a confirmation from the ledger. The sender repeats unconfirmed events after 30 s."""
POLL_SECONDS = 0.2


class Sent(NamedTuple):
    """What a gateway had left behind."""

    events: int = 0
    """Usage events that the ledger has by now."""
    responses: int = 0
    """Responses whose counts are on the bus."""


@click.group()
def outbox() -> None:
    """Send the usage that a gateway left behind."""


@outbox.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@suite_options
def send(context: Context, folder: Path) -> None:
    """Send the usage events in DIR, a gateway's data directory that no gateway uses any more.

    Files are deleted once the ledger has their events, which it counts once however often they are sent.
    """
    folders = outbox_folders(folder)
    sent = context.run_with_bus(lambda bus: _send_all(bus, folders), role="outbox") if folders else Sent()
    if sent.events:
        print_line(f"the ledger has {sent.events:,} events from {folder}")
    if sent.responses:
        print_line(f"sent the counts of {sent.responses:,} responses from {folder}")
    if not sent.events and not sent.responses:
        print_line(f"{folder} has no usage left to send")


def outbox_folders(folder: Path) -> list[Path]:
    """The outboxes of a gateway's data directory, one for each worker, or the folder itself if it is one."""
    candidates = (folder, *sorted(folder.glob("gateway/outbox*")))
    folders = [path for path in candidates if any(path.glob("*.log")) or files_in(path)]
    if not folders and not (folder / "gateway").is_dir():
        raise Rejected(f"{folder}: no data directory of a gateway: it has neither gateway/outbox nor files of usage")
    return folders


async def _send_all(bus: JetStreamBus, folders: list[Path]) -> Sent:
    each = [await _send(bus, folder) for folder in folders]
    return Sent(sum(sent.events for sent in each), sum(sent.responses for sent in each))


async def _send(bus: JetStreamBus, folder: Path) -> Sent:
    """Return what was sent. The ledger has confirmed all of the events.

    Raises:
        Misconfigured: a gateway uses the folder.
        Rejected: the ledger does not confirm them.
    """
    box = Outbox(folder, f"outbox-send-{uuid7(time.time())}", max_bytes=2**62)
    events = box.pending
    sender = UsageSender(bus, box, time.monotonic)
    await sender.start()
    sending = asyncio.create_task(sender.run())
    try:
        responses = await send_files(bus, files_in(folder))
        await _wait_for_ledger(box, sending, folder)
    finally:
        await cancel_and_wait([sending])
        box.close()
    return Sent(events, responses)


async def _wait_for_ledger(box: Outbox, sending: asyncio.Task[None], folder: Path) -> None:
    pending, moved_at = box.pending, time.monotonic()
    with Screen(stderr=True).status("") as progress:
        while box.pending:
            if sending.done():
                sending.result()
            if box.pending != pending:
                pending, moved_at = box.pending, time.monotonic()
            if time.monotonic() - moved_at > PATIENCE_SECONDS:
                raise Rejected(
                    f"{folder}: the ledger has not confirmed {box.pending:,} events within {PATIENCE_SECONDS:g} s: "
                    "check that the meter is running, and repeat this command"
                )
            progress.update(f"{box.pending:,} events left")
            await asyncio.sleep(POLL_SECONDS)
