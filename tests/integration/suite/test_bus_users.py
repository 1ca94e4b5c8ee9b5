"""Each user of the suite's bus does what its row says, and the server refuses it everything else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import nats
from nats.aio.client import Client

from shared.bus import subjects, topology
from shared.bus.jetstream import connect
from shared.bus.permissions import Role
from shared.bus.request import request_reply
from shared.key_store import create_key
from shared.messages.budget import Gates, GatesQuery
from shared.messages.meter import Gaps, GapsQuery
from shared.runtime.suite_file import BUS_USERS
from spotinference.keys.store import read_keys
from tests.integration.site.pages import PUBLIC
from tests.integration.suite.config import config
from tests.integration.suite.test_outbox import leave_behind
from tests.kit.up import UpProcess, up
from tests.kit.waiting import PATIENCE_SECONDS, until

API = "$JS.API"
USERS: tuple[Role, ...] = ("gateway", "waker", "meter", "billing", "site", "operator", "backup", "outbox", "reaper")
WRITERS: dict[str, tuple[Role, ...]] = {
    "$KV.fleet.local-1": ("waker",),
    "$KV.wakes.key": ("waker",),
    f"$KV.keys.{'a' * 64}": ("operator", "site"),
    "$KV.budget.fleet": ("billing",),
    "$KV.meter.confirmed.x": ("meter",),
    "$KV.months.key": ("meter",),
    "$KV.sources.x": ("gateway", "outbox"),
    "$KV.responses.gateway.x.1": ("gateway", "outbox"),
    "$KV.responses.other.x.1": ("outbox",),
    "$KV.leases.waker": ("waker",),
    "$KV.leases.meter": ("meter",),
    "$KV.leases.billing": ("billing",),
    "$KV.reports.published.2026-11-01": ("billing",),
    "$KV.reports.audit.2026-11-01": ("meter",),
    "$KV.reports.headline": ("billing",),
    "$KV.reports.day.2026-11-01": ("billing",),
    "$KV.waker.orders": ("waker",),
    "$KV.reports.bench.x": ("operator",),
    "usage.0": ("gateway", "outbox"),
    "wake.request.tiny": ("gateway",),
    "fleet.journal.local-1": ("waker", "reaper"),
    "fleet.journal.budget.fleet": ("billing",),
    "activity.gateway": ("gateway",),
    "activity.other": (),
    "machine.notice.local-1": (),
    "limits.other": (),
    "waker.command": ("operator", "site"),
    "meter.lost": ("operator",),
    "meter.reread": ("operator",),
    "meter.tokens": ("operator", "billing", "site"),
    **{f"meter.{query}": ("operator", "site") for query in ("figures", "responses", "audit", "keys", "gaps")},
    "meter.recount": ("operator",),
    **{f"billing.{query}": ("operator", "site") for query in ("trail", "bands", "statement", "reports", "invoices")},
    "billing.gate": ("operator", "site"),
    "billing.import": ("operator",),
    "billing.payable": ("operator",),
    "billing.published": ("billing",),
    "$O.books.C.x": ("billing",),
    "_INBOX_waker.x": (),
    "_INBOX_operator.x": ("waker", "meter", "billing"),
    "_INBOX_site.x": ("waker", "meter", "billing"),
    "_INBOX_backup.x": (),
    f"{API}.STREAM.PURGE.OBJ_books": ("billing",),
    **{
        f"{API}.{verb}.{stream}": ()
        for stream in ("USAGE", "FLEET", "WAKE", "KV_keys", "KV_fleet", "KV_budget", "KV_responses")
        for verb in ("STREAM.DELETE", "STREAM.PURGE", "STREAM.UPDATE", "STREAM.CREATE", "STREAM.MSG.DELETE")
    },
    f"{API}.CONSUMER.DELETE.USAGE.ledger": (),
    f"{API}.CONSUMER.DELETE.FLEET.books": (),
    f"{API}.CONSUMER.DELETE.FLEET.audit": (),
    f"{API}.CONSUMER.DELETE.FLEET.site": (),
    f"{API}.CONSUMER.CREATE.FLEET.books": (),
    f"{API}.CONSUMER.CREATE.FLEET.books.fleet.journal.x": (),
    f"{API}.CONSUMER.CREATE.FLEET": (),
    f"{API}.CONSUMER.CREATE.USAGE": (),
    f"{API}.CONSUMER.MSG.NEXT.FLEET.x": ("meter", "billing", "site"),
    f"{API}.DIRECT.GET.OBJ_invoices": (),
    f"{API}.CONSUMER.DURABLE.CREATE.USAGE.ledger": (),
    f"{API}.CONSUMER.MSG.NEXT.USAGE.ledger": ("meter",),
    f"{API}.CONSUMER.MSG.NEXT.FLEET.books": ("billing",),
    f"{API}.CONSUMER.MSG.NEXT.FLEET.site": ("site",),
    f"{API}.CONSUMER.MSG.NEXT.FLEET.audit": ("meter",),
    "$JS.ACK.FLEET.site.1.1.1.1.0": ("site",),
    "$JS.ACK.FLEET.books.1.1.1.1.0": ("billing",),
    f"{API}.DIRECT.GET.OBJ_books": (),
    f"{API}.STREAM.MSG.GET.OBJ_books": ("billing", "site", "operator"),
    f"{API}.STREAM.MSG.GET.OBJ_invoices": ("billing", "operator"),
    f"{API}.STREAM.MSG.GET.KV_meter": ("gateway", "meter", "operator", "outbox"),
    "$O.books.M.x": ("billing",),
    "$JS.ACK.USAGE.ledger.1.1.1.1.0": ("meter",),
    f"{API}.STREAM.MSG.GET.KV_keys": ("gateway", "meter", "billing", "site", "operator", "backup"),
    f"{API}.STREAM.MSG.GET.KV_waker": ("waker", "operator"),
    f"{API}.STREAM.SNAPSHOT.FLEET": ("backup",),
    f"{API}.STREAM.SNAPSHOT.KV_reports": ("backup",),
    f"{API}.STREAM.SNAPSHOT.USAGE": (),
    f"{API}.STREAM.RESTORE.FLEET": (),
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
    "activity.*": ("waker", "meter", "site", "operator", "reaper"),
    "limits.*": ("gateway", "site"),
    "machine.notice.*": ("waker",),
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


async def refused(suite: UpProcess, forbidden: list[str], kind: str) -> None:
    """Return once the server has refused each; an `AssertionError` names those that it let through."""
    expected = [f'{kind} Violation - Subject "{subject}"' for subject in forbidden]

    async def missing() -> list[str]:
        lines = suite.violations()[suite.forbidden :]
        return [text for text in expected if not any(text in line for line in lines)]

    await until(missing, lambda left: left == [])
    suite.forbidden += len(forbidden)


async def use_rows(suite: UpProcess, folder: Path) -> None:
    """Do, as the users that no service of the suite is, what they are for, without the key of `setup`."""
    setup = folder / "data" / BUS_USERS / "setup.nk"
    hidden = setup.rename(folder / "setup.nk")
    async with connect(suite.bus_access("site"), name="site", wait=PATIENCE_SECONDS) as site:
        key_id, _ = await create_key(site, name="customer")
        assert [record.id for _, record, _ in await read_keys(site)] == [key_id]
        for bucket in (topology.FLEET, topology.BUDGET, topology.REPORTS, topology.LEASES):
            await site.get(bucket, "x")
        await site.page(topology.FLEET_JOURNAL, after=0, most=1)
        assert await site.get_object(topology.BOOKS_FILES, "none") is None
        await request_reply(site, subjects.METER_GAPS, GapsQuery(), Gaps)
        await request_reply(site, subjects.BILLING_GATE, GatesQuery(), Gates)
    saved = await suite.command("backup", str(folder / "copy"))
    assert saved.status == 0, saved
    leave_behind(folder / "volume", "outbox", "gw-1", 3, key_id).close()
    sent = await suite.command("outbox", "send", str(folder / "volume"))
    assert (sent.status, "3 events" in sent.out) == (0, True), sent
    hidden.rename(setup)


async def read_the_site(suite: UpProcess) -> None:
    """Make the site do, by its own user, all that its public pages need."""
    async with aiohttp.ClientSession(suite.services["site"]["url"]) as session:
        for path in {*PUBLIC, "/feed.xml"} - {"/sign-in", "/nowhere"}:
            async with session.get(path) as response:
                assert response.status == (404 if path.startswith("/economics/") else 200), (
                    path
                )  # no day is in the books yet


async def test_each_user_may_do_its_row_and_nothing_else(tmp_path: Path) -> None:
    settings = config(["python", "-c", "import time; time.sleep(999)", "{port}"])
    async with up(tmp_path, settings) as suite:
        await use_rows(suite, tmp_path)
        await read_the_site(suite)
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
