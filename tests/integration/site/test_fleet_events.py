"""The fleet by server-sent events: the latest state for all who watch, until their session or the site ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
import pytest

from services.site.adapters.http.operator import fleet_pages
from services.site.adapters.session_store import SqlSessionStore
from services.site.app import fleet_feed
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.bus.topology import FLEET
from shared.messages.codec import encode
from shared.messages.gateway import Activity, MachineActivity
from shared.messages.waker import MachineState
from tests.integration.site.test_operator_pages import FLEET_CONFIG, MACHINE
from tests.kit.github import Account, Github, github_config, running_github
from tests.kit.site import Browser, running_site
from tests.kit.waiting import PATIENCE_SECONDS

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
async def github() -> AsyncIterator[Github]:
    async with running_github(Account(1, "ann"), Account(2, "olga"), Account(3, "vic")) as running:
        yield running


def config(github: Github) -> str:
    roles = 'signup = "open"\noperators = ["github:2"]\nviewers = ["github:3"]'
    return f'[site]\nport = 0\ndrain_grace = "5m"\n{roles}\n{github_config(github)}\n{FLEET_CONFIG}'


async def put(bus: MemoryBus, state: MachineState) -> None:
    record = msgspec.structs.replace(MACHINE, state=state)
    await bus.put(FLEET, subjects.machine_key(MACHINE.machine), encode(record))


async def read_until(response: aiohttp.ClientResponse, text: str) -> str:
    """What a stream says until a line has the text."""
    lines = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while line := (await response.content.readline()).decode():
            lines.append(line)
            if text in line:
                return "".join(lines)
    raise AssertionError(f"the stream ended without {text}: {lines}")


async def test_each_who_watches_gets_the_latest_state(github: Github, tmp_path: Path) -> None:
    bus = MemoryBus()
    await put(bus, "ready")
    async with (
        running_site(tmp_path, config(github), bus) as url,
        Browser(url) as olga,
        Browser(url) as vic,
    ):
        await olga.sign_in("olga")
        await vic.sign_in("vic")
        async with (
            olga.http.get(f"{url}/operator/events", headers=STREAM) as first,
            vic.http.get(f"{url}/operator/events", headers=STREAM) as second,
        ):
            assert (first.status, first.content_type) == (200, "text/event-stream")
            assert first.headers["X-Accel-Buffering"] == "no"
            assert first.headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in first.headers["Content-Security-Policy"]
            assert (await read_until(first, "ready")).startswith("event: fleet\nid: ")
            await read_until(second, "ready")
            await put(bus, "draining")
            await put(bus, "asleep")
            await read_until(first, "asleep")
            await read_until(second, "asleep")
            use = Activity(gateway="gw", sent_at=1.0, machines={MACHINE.machine: MachineActivity(in_flight=7)})
            await bus.publish_volatile(subjects.activity("gw"), encode(use))
            await read_until(first, "<td>7</td>")


async def test_stream_ends_while_the_database_is_away(
    github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = MemoryBus()
    await put(bus, "ready")

    async def find(*_: object, **__: object) -> None:
        raise OSError("the database has gone")

    async with running_site(tmp_path, config(github), bus) as url, Browser(url) as vic:
        await vic.sign_in("vic")
        async with vic.http.get(f"{url}/operator/events", headers=STREAM) as stream:
            await read_until(stream, "ready")
            monkeypatch.setattr(SqlSessionStore, "find", find)
            await put(bus, "asleep")
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert b"HTTP/1.1" not in await stream.read(), "another response within this one"


async def test_what_is_no_event_source_gets_no_stream(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as vic, Browser(url) as ann:
        assert (await vic.get("/operator/events", **STREAM)).status == 303
        await vic.sign_in("vic")
        await ann.sign_in("ann")
        assert (await vic.get("/operator/events")).status == 406
        assert (await ann.get("/operator/events", **STREAM)).status == 403


async def test_streams_are_bounded_per_session_and_in_all(
    github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_feed, "MOST_STREAMS", fleet_feed.MOST_PER_SESSION + 1)
    monkeypatch.setattr(fleet_pages, "COMMENT_S", 0.05)
    async with running_site(tmp_path, config(github)) as url, Browser(url) as vic, Browser(url) as olga:
        await vic.sign_in("vic")
        await olga.sign_in("olga")
        async with AsyncExitStack() as streams:
            for _ in range(fleet_feed.MOST_PER_SESSION):
                await streams.enter_async_context(vic.http.get(f"{url}/operator/events", headers=STREAM))
            assert (await vic.get("/operator/events", **STREAM)).status == 429
            await streams.enter_async_context(olga.http.get(f"{url}/operator/events", headers=STREAM))
            assert (await olga.get("/operator/events", **STREAM)).status == 429
        async with asyncio.timeout(PATIENCE_SECONDS):  # it notices when it writes
            while True:
                async with vic.http.get(f"{url}/operator/events", headers=STREAM) as again:
                    if again.status == 200:
                        break
                await asyncio.sleep(0.01)


async def test_a_stream_ends_with_its_session(github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = MemoryBus()
    await put(bus, "ready")
    monkeypatch.setattr(fleet_pages, "COMMENT_S", 0.05)
    async with running_site(tmp_path, config(github), bus) as url, Browser(url) as vic:
        await vic.sign_in("vic")
        async with vic.http.get(f"{url}/operator/events", headers=STREAM) as stream:
            await read_until(stream, ": still here")
            await vic.post("/sign-out", (await vic.get("/operator")).form("/sign-out"))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await stream.content.read()


async def test_an_open_page_does_not_prolong_its_session(
    github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_800_000_000.0]
    monkeypatch.setattr(fleet_pages, "COMMENT_S", 0.05)
    async with running_site(tmp_path, config(github), now=lambda: clock[0]) as url, Browser(url) as olga:
        await olga.sign_in("olga")
        async with olga.http.get(f"{url}/operator/events", headers=STREAM) as stream:
            clock[0] += 3000  # of the hour that an operator's session lasts unused
            await read_until(stream, ": still here")
            await read_until(stream, ": still here")
            clock[0] += 661  # the last use is known to the minute
            async with asyncio.timeout(PATIENCE_SECONDS):
                await stream.content.read()


async def test_streams_end_when_the_site_drains(github: Github, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running_site(tmp_path, config(github)))
        async with Browser(url) as vic:
            await vic.sign_in("vic")
            async with vic.http.get(f"{url}/operator/events", headers=STREAM) as stream:
                await read_until(stream, "No machine")
                async with asyncio.timeout(PATIENCE_SECONDS):  # and not its grace of 5 minutes
                    await stack.aclose()
                    await stream.content.read()
