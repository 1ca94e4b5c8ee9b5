"""The board of the fleet in Chromium: it follows the fleet by itself, and says when it does not."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from playwright.async_api import CDPSession, Route, expect

from services.site.app import fleet_feed
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.bus.topology import FLEET
from shared.messages.codec import encode
from shared.messages.waker import MachineState
from tests.integration.site.test_operator_pages import FLEET_CONFIG, MACHINE
from tests.integration.site.test_pages_in_chromium import sign_in
from tests.kit.browser import PHONE, opened, running_chromium
from tests.kit.github import Account, github_config, running_github
from tests.kit.ports import free_port
from tests.kit.site import running_site
from tests.kit.waiting import PATIENCE_SECONDS

UPDATES = 30
LINK = "Cordon local 1"
TABLE = "document.querySelector('[data-live] .wide')"


async def put(bus: MemoryBus, state: MachineState, generation: int = 3) -> None:
    record = msgspec.structs.replace(MACHINE, state=state, generation=generation, reason=f"reason {generation}")
    await bus.put(FLEET, subjects.machine_key(MACHINE.machine), encode(record))


async def test_the_board_follows_the_fleet_through_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_feed, "LEAST_PAUSE_S", 0.0)
    bus = MemoryBus()
    await put(bus, "ready")
    async with AsyncExitStack() as stack:
        github = await stack.enter_async_context(running_github(Account(2, "olga")))
        port = free_port()
        config = f'[site]\nport = {port}\noperators = ["github:2"]\n{github_config(github)}\n{FLEET_CONFIG}'
        first = await stack.enter_async_context(AsyncExitStack())
        url = await first.enter_async_context(running_site(tmp_path, config, bus))
        browser = await stack.enter_async_context(running_chromium())
        state = await sign_in(browser, url, "olga")
        page, console = await stack.enter_async_context(opened(browser, size=PHONE, state=state))
        await page.goto(f"{url}/operator")
        live, board = page.locator("[data-live-state]"), page.locator("[data-live]")
        await expect(live).to_have_text("Live.")

        # A change appears, and neither scrolling nor focus move.
        await page.evaluate(f"{TABLE}.scrollLeft = 60")
        await put(bus, "draining", 4)
        await expect(board).to_contain_text("draining")
        assert await page.evaluate(f"{TABLE}.scrollLeft") == 60
        await page.get_by_label(LINK).focus()
        await put(bus, "draining", 5)
        await expect(board).to_contain_text("reason 5")
        assert await page.evaluate("document.activeElement.getAttribute('aria-label')") == LINK

        # Nothing is kept of what was shown before.
        protocol = await page.context.new_cdp_session(page)
        await protocol.send("Performance.enable")
        kept = []
        for generation in range(6, 6 + UPDATES):
            await put(bus, "draining", generation)
            await expect(board).to_contain_text(f"reason {generation}")
            if generation in (10, 5 + UPDATES):
                kept.append(await memory(protocol))
        assert kept[1][0] < 2 * kept[0][0], kept
        assert kept[1][1] <= kept[0][1], kept
        assert console == []

        # The site restarts behind a proxy that answers 503 meanwhile: the page says so, and comes back by itself.
        await first.aclose()
        await expect(live).to_contain_text("Not live")
        await _refuse_once(port)
        await expect(board).to_contain_text("As of 20")
        await put(bus, "asleep")
        again = await stack.enter_async_context(AsyncExitStack())
        await again.enter_async_context(running_site(tmp_path, config, bus))
        await expect(live).to_have_text("Live.")
        await expect(board).to_contain_text("asleep")

        # What the bus does not confirm is not shown as of now.
        bus.view_age = fleet_feed.AS_OF_S + 31.0
        await put(bus, "asleep", 99)
        await expect(board).to_contain_text("may be of the past")

        # A session that has ended ends the stream.
        await page.context.clear_cookies()
        await again.aclose()
        await expect(live).to_contain_text("Not live")


async def test_the_board_is_not_live_after_45_silent_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The browser's clock stands still unless the test moves it, so that a slow machine changes nothing."""
    monkeypatch.setattr(fleet_feed, "AS_OF_S", 3600.0)
    bus = MemoryBus()
    await put(bus, "ready")
    async with (
        running_github(Account(2, "olga")) as github,
        running_site(
            tmp_path, f'[site]\nport = 0\noperators = ["github:2"]\n{github_config(github)}\n{FLEET_CONFIG}', bus
        ) as url,
        running_chromium() as browser,
        opened(browser, state=await sign_in(browser, url, "olga")) as (page, _),
    ):
        live, board = page.locator("[data-live-state]"), page.locator("[data-live]")
        await page.clock.install(time=0)
        await page.clock.pause_at(1)
        stream_requested = asyncio.Event()

        async def leave_unanswered(_route: Route) -> None:
            stream_requested.set()

        # Not even the first board comes.
        await page.route("**/operator/events", leave_unanswered)
        await page.goto(f"{url}/operator")
        await asyncio.wait_for(stream_requested.wait(), PATIENCE_SECONDS)
        await page.clock.run_for(44_999)
        await expect(live).not_to_contain_text("Not live")
        await page.clock.run_for(1)
        await expect(live).to_contain_text("Not live")

        # It comes back by itself, and each board counts anew.
        await page.unroute("**/operator/events")
        await page.clock.run_for(1000)
        await expect(live).to_have_text("Live.")
        await page.clock.run_for(44_999)
        await put(bus, "draining", 4)
        await expect(board).to_contain_text("reason 4")
        await page.clock.run_for(44_999)
        await expect(live).to_have_text("Live.")
        await page.clock.run_for(1)
        await expect(live).to_contain_text("Not live")
        await expect(board).to_contain_text("reason 4")


async def _refuse_once(port: int) -> None:
    """Answer one request as a proxy does whose server is away."""
    is_refused = asyncio.Event()

    async def refuse(_request: web.Request) -> web.Response:
        is_refused.set()
        return web.Response(status=503)

    app = web.Application()
    app.router.add_get("/operator/events", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.wait_for(is_refused.wait(), PATIENCE_SECONDS)
    await runner.cleanup()


async def memory(protocol: CDPSession) -> tuple[float, float]:
    """The page's nodes and listeners that are still there after a collection."""
    await protocol.send("HeapProfiler.collectGarbage")
    metrics = {each["name"]: each["value"] for each in (await protocol.send("Performance.getMetrics"))["metrics"]}
    return metrics["Nodes"], metrics["JSEventListeners"]
