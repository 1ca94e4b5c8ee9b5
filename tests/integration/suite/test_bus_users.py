"""Each user of the suite's bus does what its row says, and the server refuses it everything else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.aio.client import Client

from shared.bus.permissions import Role
from tests.integration.suite.config import config
from tests.kit.up import UpProcess, up
from tests.kit.waiting import until

API = "$JS.API"
USERS: tuple[Role, ...] = ("gateway", "waker", "meter", "billing", "operator")
WRITERS: dict[str, tuple[Role, ...]] = {
    "$KV.fleet.local-1": ("waker",),
    "$KV.wakes.key": ("waker",),
    f"$KV.keys.{'a' * 64}": ("operator",),
    "$KV.budget.fleet": ("billing",),
    "$KV.meter.confirmed.x": ("meter",),
    "$KV.months.key": ("meter",),
    "$KV.sources.x": ("gateway",),
    "$KV.leases.waker": ("waker",),
    "$KV.leases.meter": ("meter",),
    "$KV.leases.billing": ("billing",),
    "$KV.reports.published.2026-11-01": ("billing",),
    "$KV.reports.audit.2026-11-01": ("meter",),
    "$KV.reports.bench.x": ("operator",),
    "usage.0": ("gateway",),
    "wake.request.tiny": ("gateway",),
    "fleet.journal.local-1": ("waker",),
    "fleet.journal.budget.fleet": ("billing",),
    "activity.gateway": ("gateway",),
    "activity.other": (),
    "limits.other": (),
    "waker.command": ("operator",),
    "meter.lost": ("operator",),
    "meter.tokens": ("operator", "billing"),
    "billing.gate": ("operator",),
    "billing.published": ("billing",),
    "$O.books.C.x": ("billing",),
    "_INBOX_waker.x": (),
    "_INBOX_operator.x": ("waker", "meter", "billing"),
    f"{API}.STREAM.PURGE.OBJ_books": ("billing",),
    **{
        f"{API}.{verb}.{stream}": ()
        for stream in ("USAGE", "FLEET", "WAKE", "KV_keys", "KV_fleet", "KV_budget")
        for verb in ("STREAM.DELETE", "STREAM.PURGE", "STREAM.UPDATE", "STREAM.CREATE", "STREAM.MSG.DELETE")
    },
    f"{API}.CONSUMER.DELETE.USAGE.ledger": (),
    f"{API}.CONSUMER.DELETE.FLEET.books": (),
    f"{API}.CONSUMER.DELETE.FLEET.audit": (),
    f"{API}.CONSUMER.CREATE.FLEET.books": (),
    f"{API}.CONSUMER.CREATE.FLEET.books.fleet.journal.x": (),
    f"{API}.CONSUMER.CREATE.FLEET": (),
    f"{API}.CONSUMER.CREATE.USAGE": (),
    f"{API}.CONSUMER.MSG.NEXT.FLEET.x": ("meter", "billing"),
    f"{API}.DIRECT.GET.OBJ_invoices": (),
    f"{API}.CONSUMER.DURABLE.CREATE.USAGE.ledger": (),
    f"{API}.CONSUMER.MSG.NEXT.USAGE.ledger": ("meter",),
    f"{API}.CONSUMER.MSG.NEXT.FLEET.books": ("billing",),
    "$JS.ACK.USAGE.ledger.1.1.1.1.0": ("meter",),
    f"{API}.STREAM.MSG.GET.KV_keys": ("gateway", "meter", "billing", "operator"),
    "$SYS.REQ.SERVER.PING": (),
}
"""Subjects, and the users who may publish them."""
READERS: dict[str, tuple[Role, ...]] = {
    "_INBOX.>": (),
    **{f"_INBOX_{user}.>": (user,) for user in USERS},
    ">": (),
    "usage.*": (),
    "$KV.>": (),
    "$JS.>": (),
    "wake.request.>": ("waker",),
    "activity.*": ("waker", "meter", "operator"),
    "limits.*": ("gateway",),
    "fleet.journal.>": ("operator",),
    "waker.command": ("waker",),
    "meter.tokens": ("meter",),
    "billing.report": ("billing",),
}
"""Subjects, and the users who may subscribe to them."""


@asynccontextmanager
async def intruder(suite: UpProcess, user: Role) -> AsyncIterator[Client]:
    """A client with a user's key."""
    access = suite.bus_access(user)

    async def on_error(_error: Exception) -> None:
        """The server's log is what is read."""

    client = await nats.connect(list(access.urls), error_cb=on_error, allow_reconnect=False, **access.options())
    try:
        yield client
    finally:
        await client.close()


async def refused(suite: UpProcess, subjects: list[str], kind: str) -> None:
    """Return once the server has refused each; an `AssertionError` names those that it let through."""
    expected = [f'{kind} Violation - Subject "{subject}"' for subject in subjects]

    async def missing() -> list[str]:
        lines = suite.violations()[suite.forbidden :]
        return [text for text in expected if not any(text in line for line in lines)]

    await until(missing, lambda left: left == [])
    suite.forbidden += len(subjects)


async def test_each_user_may_do_its_row_and_nothing_else(tmp_path: Path) -> None:
    settings = config(["python", "-c", "import time; time.sleep(999)", "{port}"])
    async with up(tmp_path, settings) as suite:
        before = await suite.json("keys", "list"), await suite.machines(), await suite.json("budget")
        assert suite.violations() == []
        for user in USERS:
            async with intruder(suite, user) as client:
                forgeries = [subject for subject, writers in WRITERS.items() if user not in writers]
                for subject in forgeries:
                    await client.publish(subject, b"forged", reply="nowhere")
                await refused(suite, forgeries, "Publish")
                for subject in (overheard := [it for it, readers in READERS.items() if user not in readers]):
                    await client.subscribe(subject)
                await refused(suite, overheard, "Subscription")
        # What a user may do is not refused: the list above is the whole of it.
        assert len(suite.violations()) == suite.forbidden
        assert (await suite.json("keys", "list"), await suite.machines(), await suite.json("budget")) == before
