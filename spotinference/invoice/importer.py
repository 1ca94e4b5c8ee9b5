"""One delivery into the books, watched until it counts or billing says why not.

Billing may die in the middle of an import, be restarted, or be busy with another one. So while the command waits, it
asks what is under way. An import is idempotent: one that was lost is asked for again, once.
"""

import asyncio
import time
from collections.abc import Callable
from uuid import uuid4

from msgspec.structs import replace

from services.billing.adapters.file_sources import Place
from services.billing.app.deliveries import found, sent
from shared.bus.ports import Bus
from shared.bus.subjects import BILLING_IMPORT, BILLING_IMPORT_STATUS
from shared.bus.topology import LEASE_SECONDS
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.invoices import ImportAnswer, ImportRequest, ImportStatus, ImportStatusQuery, RunningImport
from shared.tasks import cancel_and_wait
from spotinference.context import ask

IMPORT_SECONDS = 14_400.0
"""For one delivery, and those before it: ten million charges take a minute. Billing is alive all the while."""
LOOK_SECONDS = 1.0
ANSWER_SECONDS = 5.0
"""A billing that is busy answers within this."""
SILENCE_SECONDS = 4 * LEASE_SECONDS
"""Another billing leads within a lease; what was restarted has begun by then."""
IDLE_LOOKS = 3
"""Billing does nothing, and has not answered: it has not got the request, or its answer was lost."""
ASKED_MOST = 2


async def import_delivery(bus: Bus, request: ImportRequest, tell: Callable[[str], None]) -> ImportAnswer:
    """Import it. `tell` hears about once a second what is under way.

    Raises:
        Rejected: billing declined.
        BusUnavailable: billing has ended, or has lost the import twice.
    """
    for _ in range(ASKED_MOST):
        answer = await _asked(bus, request, tell)
        if answer is not None:
            return answer
        tell("billing was restarted in the middle of it: asking again")
    raise BusUnavailable(f"billing lost the import {ASKED_MOST} times: see its log. {_AFTERWARDS}")


_AFTERWARDS = (
    "`spotinference invoice list` shows what counts; the import may be repeated at any time, it never counts twice"
)


async def _asked(bus: Bus, request: ImportRequest, tell: Callable[[str], None]) -> ImportAnswer | None:
    """The answer, or None where the process that was asked no longer has the import."""
    first = await ask(bus, BILLING_IMPORT_STATUS, ImportStatusQuery(), ImportStatus)
    asking = asyncio.create_task(ask(bus, BILLING_IMPORT, request, ImportAnswer, timeout=IMPORT_SECONDS))
    heard_at, idle = time.monotonic(), 0
    try:
        while not (await asyncio.wait({asking}, timeout=LOOK_SECONDS))[0]:
            status = await _status(bus)
            if status is None:
                silent_s = time.monotonic() - heard_at
                if silent_s > SILENCE_SECONDS:
                    raise BusUnavailable(f"billing has not answered for {silent_s:.0f} s. {_AFTERWARDS}")
                tell(f"billing does not answer, for {silent_s:.0f} s")
                continue
            heard_at = time.monotonic()
            idle = 0 if status.running else idle + 1
            if status.instance != first.instance or idle >= IDLE_LOOKS:
                return None
            if status.running:
                tell(in_words(status.running, mine=status.running.id == request.id))
        return asking.result()
    finally:
        await cancel_and_wait([asking])


async def _status(bus: Bus) -> ImportStatus | None:
    """What billing is at, or None where nobody answers."""
    try:
        answer = await bus.request(BILLING_IMPORT_STATUS, encode(ImportStatusQuery()), timeout=ANSWER_SECONDS)
    except BusUnavailable:
        return None
    return decode(answer, ImportStatus)


def in_words(running: RunningImport, *, mine: bool) -> str:
    """The import under way for the operator; `mine`: it is the one that this command asked for."""
    rows = f" {running.rows:,} rows," if running.rows else ""
    share = "" if running.share is None else f" {running.share:.0%},"
    step = f"{running.step}{rows}{share} {running.seconds:.0f} s"
    return step if mine else f"waiting behind another import, of source {running.source}: {step}"


async def deliver(
    bus: Bus, lies: Place, source: str, tell: Callable[[str], None], *, parts: bool = False, rounds: bool = False
) -> list[ImportAnswer]:
    """Import what lies there, up to the first delivery that is refused; `tell` hears how far it is."""
    answers: list[ImportAnswer] = []
    sent_before: list[str] = []
    for delivery in await found(lies):
        count = len(delivery.plan.files)
        tell("sending a file" if count == 1 else f"sending {count:,} files")
        request = await sent(bus, lies, delivery.plan, source, parts=parts, rounds=rounds, beside=sent_before)
        answers.append(await import_delivery(bus, replace(request, id=uuid4().hex), tell))
        if answers[-1].refusals:
            break
        sent_before += [file.sha256 for file in request.files]
    return answers
