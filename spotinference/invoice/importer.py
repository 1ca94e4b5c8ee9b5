"""Imports a provider's files: sends each delivery to billing and waits until it counts or is rejected.

Billing may die during an import, be restarted, or be busy with another import. The command therefore polls billing's
status while it waits. An import is idempotent: one that was lost is requested once more.
"""

import asyncio
import time
from collections.abc import Callable
from uuid import uuid4

from msgspec.structs import replace

from services.billing.app.deliveries import list_deliveries, upload_delivery
from services.billing.ports import FileSource
from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import BILLING_IMPORT, BILLING_IMPORT_STATUS
from shared.bus.topology import LEASE_SECONDS
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.invoices import ImportAnswer, ImportRequest, ImportStatus, ImportStatusQuery, RunningImport
from shared.tasks import cancel_and_wait

IMPORT_SECONDS = 14_400.0
"""For one delivery and those queued before it. Ten million charges take a minute. Billing answers all the while."""
POLL_SECONDS = 1.0
STATUS_SECONDS = 5.0
"""A busy billing service answers a status query within this."""
SILENCE_SECONDS = 4 * LEASE_SECONDS
"""Another billing instance leads within one lease; a restarted one has begun by then."""
IDLE_POLLS = 3
"""Billing is idle and has not replied: it never received the request, or its reply was lost."""
MAX_ATTEMPTS = 2
_HINT = "`spotinference invoice list` shows what counts. You can repeat the import: it never counts twice"

OnProgress = Callable[[str], None]
"""Called about once a second with what is under way."""


async def import_deliveries(
    bus: Bus,
    source_files: FileSource,
    source: str,
    on_progress: OnProgress,
    *,
    parts: bool = False,
    rounds: bool = False,
) -> list[ImportAnswer]:
    """Import every delivery of `source_files`, up to the first one that is rejected."""
    answers: list[ImportAnswer] = []
    sent_before: list[str] = []
    for delivery in await list_deliveries(source_files):
        count = len(delivery.plan.files)
        on_progress("sending a file" if count == 1 else f"sending {count:,} files")
        request = await upload_delivery(
            bus, source_files, delivery.plan, source, parts=parts, rounds=rounds, beside=sent_before
        )
        answers.append(await import_delivery(bus, replace(request, id=uuid4().hex), on_progress))
        if answers[-1].refusals:
            break
        sent_before += [file.sha256 for file in request.files]
    return answers


async def import_delivery(bus: Bus, request: ImportRequest, on_progress: OnProgress) -> ImportAnswer:
    """Import one delivery.

    Raises:
        Rejected: billing rejected the import.
        BusUnavailable: billing no longer answers, or has lost the import twice.
    """
    for _ in range(MAX_ATTEMPTS):
        answer = await _attempt(bus, request, on_progress)
        if answer is not None:
            return answer
        on_progress("billing was restarted during the import: requesting it again")
    raise BusUnavailable(f"billing lost the import {MAX_ATTEMPTS} times: check its log. {_HINT}")


async def _attempt(bus: Bus, request: ImportRequest, on_progress: OnProgress) -> ImportAnswer | None:
    """Return the reply, or None if the process that took the request no longer has it."""
    first = await request_reply(bus, BILLING_IMPORT_STATUS, ImportStatusQuery(), ImportStatus)
    importing = asyncio.create_task(request_reply(bus, BILLING_IMPORT, request, ImportAnswer, timeout=IMPORT_SECONDS))
    answered_at, idle_polls = time.monotonic(), 0
    try:
        while not (await asyncio.wait({importing}, timeout=POLL_SECONDS))[0]:
            status = await _read_status(bus)
            if status is None:
                silent_s = time.monotonic() - answered_at
                if silent_s > SILENCE_SECONDS:
                    raise BusUnavailable(f"billing has not answered for {silent_s:.0f} s. {_HINT}")
                on_progress(f"billing has not answered for {silent_s:.0f} s")
                continue
            answered_at = time.monotonic()
            idle_polls = 0 if status.running else idle_polls + 1
            if status.instance != first.instance or idle_polls >= IDLE_POLLS:
                return None
            if status.running:
                on_progress(describe(status.running, is_own=status.running.id == request.id))
        return importing.result()
    finally:
        await cancel_and_wait([importing])


async def _read_status(bus: Bus) -> ImportStatus | None:
    """Return what billing is doing, or None if it does not answer."""
    try:
        answer = await bus.request(BILLING_IMPORT_STATUS, encode(ImportStatusQuery()), timeout=STATUS_SECONDS)
    except BusUnavailable:
        return None
    return decode(answer, ImportStatus)


def describe(running: RunningImport, *, is_own: bool) -> str:
    """Describe the import under way. `is_own`: this command requested it."""
    rows = f" {running.rows:,} rows," if running.rows else ""
    share = "" if running.share is None else f" {running.share:.0%},"
    step = f"{running.step}{rows}{share} {running.seconds:.0f} s"
    return step if is_own else f"waiting for another import, of source {running.source}: {step}"
