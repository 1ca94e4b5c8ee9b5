"""The playground in Chromium before a real gateway: the wake as it goes, the answer, its cost, and what may fail."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

from playwright.async_api import Page, expect

from shared.bus.jetstream import JetStreamBus
from shared.bus.subjects import BILLING_BANDS
from shared.messages.billing import Band, Bands, BandsQuery
from shared.messages.codec import decode, encode
from tests.integration.gateway.conftest import MODEL, Front
from tests.integration.gateway.conftest import opened as opened_gateway
from tests.kit.browser import opened, running_chromium
from tests.kit.github import Account, github_config, running_github
from tests.kit.ports import free_port
from tests.kit.scripted_engine import Script, ScriptedEngine, scripted
from tests.kit.site import running_site

__all__ = ["opened_gateway"]

SITE_CONFIG = """
[site]
port = {port}
signup = "open"
api_url = "{api_url}"
{github}
[[tier]]
name = "t"
provider = "static"
[[model]]
name = "org/model"
lineup = ["t"]
[[model]]
name = "removed"
lineup = ["t"]
"""


async def bands(data: bytes) -> bytes:
    band = Band(
        model=MODEL, day="2026-11-01", low=Decimal("1.50"), high=Decimal("2.00"), trailing_7=None, trailing_28=None
    )
    return encode(Bands(day=decode(data, BandsQuery).day, bands=(band,)))


class Playground:
    """The page, in which somebody is signed in."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.state = page.get_by_role("status")
        self.text = page.locator("#play-text")

    async def send(self, key: str, model: str = MODEL) -> None:
        await self.page.get_by_label("Key").fill(key)
        await self.page.get_by_label("Model").select_option(model)
        await self.page.get_by_role("button", name="Send").click()

    async def stop(self) -> None:
        await self.page.get_by_role("button", name="Stop").click()


@asynccontextmanager
async def signed_in(
    folder: Path, bus: JetStreamBus, api_url: str, port: int
) -> AsyncIterator[tuple[Playground, list[str], list[str]]]:
    """The playground, what the console says, and what the browser sends to the site."""
    async with running_github(Account(1, "ann")) as github:
        config = SITE_CONFIG.format(port=port, api_url=api_url, github=github_config(github))
        async with (
            running_site(folder, config, bus) as url,
            running_chromium() as chromium,
            opened(chromium) as (page, console),
        ):
            sent: list[str] = []
            page.on(
                "request",
                lambda request: (
                    sent.append(f"{request.headers} {request.post_data}") if request.url.startswith(url) else None
                ),
            )
            await page.goto(f"{url}/sign-in?next=playground")
            await page.get_by_role("link", name="Sign in with GitHub").click()
            await page.get_by_role("link", name="Continue as ann").click()
            await page.wait_for_url(f"{url}/account/playground")
            yield Playground(page), console, sent


async def test_a_prompt_wakes_a_machine_and_every_fault_is_shown(
    bus: JetStreamBus, opened_gateway: Callable[..., Awaitable[Front]], tmp_path: Path
) -> None:
    port = free_port()
    front = await opened_gateway(f'cors_origins = ["http://127.0.0.1:{port}"]')
    _, limited = await front.mint(requests_per_minute=1)
    await bus.respond("billing", BILLING_BANDS, bands)
    async with scripted() as engine, signed_in(tmp_path, bus, front.url, port) as (playground, console, sent):
        await _wake(playground, front, engine)
        await _stop(playground, front, engine)
        await _be_refused(playground, front, limited)
        await _watch(playground, front, engine)
        await _lose(playground, front, engine)
        stored = await playground.page.evaluate(
            "JSON.stringify({...localStorage, ...sessionStorage}) + document.cookie"
        )
    assert [fault for fault in console if "Content Security Policy" in fault or "Error:" in fault] == []
    assert front.key not in stored
    assert not [request for request in sent if front.key in request]


async def _wake(playground: Playground, front: Front, engine: ScriptedEngine) -> None:
    """What it waits for, and then an answer."""
    await front.machine("m1", "waking", phase="booting")
    await front.machine("m2", "asleep")
    await playground.send(front.key)
    await expect(playground.state).to_have_text("Waking first: booting, time left not known.")
    await front.machine("m1", "waking", phase="loading", ready_at=time.time() + 142.0)
    await expect(playground.state).to_contain_text("Waking first: loading, about 14")
    assert [text[:15] for text in await playground.page.locator("#play-phases li").all_inner_texts()] == [
        "booting (first)",
        "loading (first)",
    ]
    engine.scripts.append(Script(words=("Hel", "lo <b>")))
    await front.machine("m1", "ready", engine.base_url)
    await expect(playground.state).to_have_text("Done.")
    await expect(playground.text).to_have_text("Hello <b>")


async def _stop(playground: Playground, front: Front, engine: ScriptedEngine) -> None:
    """A stopped answer ends at the engine; one that another replaces says nothing more."""
    for _ in range(3):
        engine.scripts.append(Script(hold_after=3))
    await playground.send(front.key)
    await expect(playground.text).to_have_text(" w1 w2")
    await playground.stop()
    await expect(playground.state).to_have_text("Stopped.")
    await expect(playground.page.get_by_role("button", name="Stop")).to_be_hidden()
    assert await engine.requests[-1].ended() == "left"
    await playground.send(front.key)
    await expect(playground.text).to_have_text(" w1 w2")
    first = engine.requests[-1]
    await playground.send(front.key)
    assert await first.ended() == "left"
    await expect(playground.text).to_have_text(" w1 w2")
    await expect(playground.state).to_have_text("Answering.")
    await playground.stop()
    await expect(playground.state).to_have_text("Stopped.")
    engine.scripts.append(Script(reset_after=3))
    await playground.send(front.key)
    await expect(playground.state).to_contain_text(": ")
    await expect(playground.text).to_have_text(" w1 w2")


async def _be_refused(playground: Playground, front: Front, limited: str) -> None:
    await playground.send("sk-wrong")
    await expect(playground.state).to_contain_text("401 invalid_api_key: ")
    await playground.send(front.key, "removed")
    await expect(playground.state).to_contain_text("404 model_not_found: ")
    await front.knows(limited)
    await playground.send(limited)
    await expect(playground.state).to_have_text("Done.")
    await playground.send(limited)
    await expect(playground.state).to_contain_text("429 ")


async def _watch(playground: Playground, front: Front, engine: ScriptedEngine) -> None:
    """Each token is shown before the next one comes; usage and cost at the end."""
    engine.scripts.append(Script(hold_after=3, prompt_tokens=11, cached_tokens=4))
    await playground.send(front.key)
    await expect(playground.text).to_have_text(" w1 w2")
    await expect(playground.state).to_have_text("Answering.")
    engine.release()
    await expect(playground.state).to_have_text("Done.")
    figures = await playground.page.locator("#play-usage dd").all_inner_texts()
    assert figures[:4] == ["11", "4", "5", "$0.000032, at the $2.00 per million of the price band since 2026-11-01"]


async def _lose(playground: Playground, front: Front, engine: ScriptedEngine) -> None:
    """The gateway dies within an answer, and is away for the next one."""
    engine.scripts.append(Script(tokens=10_000, interval=0.05))
    await playground.send(front.key)
    await expect(playground.text).to_contain_text(" w1 w2")
    await front.service.kill9()
    await expect(playground.state).to_have_text("The answer broke off: the connection was lost.")
    await playground.send(front.key)
    await expect(playground.state).to_contain_text("The API cannot be reached from this page")
