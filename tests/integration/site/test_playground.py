"""The playground in Chromium: the wake as it goes, the answer, its usage, and a key that the site never sees."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from aiohttp import web

from shared.bus.memory import MemoryBus
from shared.bus.subjects import BILLING_BANDS
from shared.messages.billing import Band, Bands, BandsQuery
from shared.messages.codec import decode, encode
from tests.integration.site.test_own_keys import MODEL
from tests.kit.browser import opened, running_chromium
from tests.kit.github import Account, github_config, running_github
from tests.kit.site import running_site

SECRET = "sk-the-key-of-the-person"
CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "authorization, content-type"}


class Gateway:
    """Wakes when the test lets it, then answers."""

    def __init__(self) -> None:
        self.url = ""
        self.woken, self.answered = asyncio.Event(), asyncio.Event()
        self.keys: list[str] = []

    async def preflight(self, _request: web.Request) -> web.Response:
        return web.Response(headers=CORS)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers["Authorization"])
        if self.keys[-1] != f"Bearer {SECRET}":
            error = {"error": {"message": "no such key", "code": "invalid_api_key", "type": "x", "param": None}}
            return web.json_response(error, status=401, headers=CORS)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **CORS})
        await response.prepare(request)
        await response.write(b": waking tier=h100x2 phase=booting eta=?\n\n")
        await response.write(b": waking tier=h100x2 phase=loading eta=142\n\n")
        await self.woken.wait()
        for text in ("Hel", "lo <b>"):
            await response.write(b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode())
        await response.write(
            b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
        )
        return response


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway, app = Gateway(), web.Application()
    app.router.add_post("/v1/chat/completions", gateway.complete)
    app.router.add_options("/v1/chat/completions", gateway.preflight)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield gateway
    await runner.cleanup()


async def bands(data: bytes) -> bytes:
    band = Band(
        model="org/m", day="2026-11-01", low=Decimal("1.50"), high=Decimal("2.00"), trailing_7=None, trailing_28=None
    )
    return encode(Bands(day=decode(data, BandsQuery).day, bands=(band,)))


async def test_a_prompt_goes_to_the_gateway_and_the_wake_is_shown(gateway: Gateway, tmp_path: Path) -> None:
    bus = MemoryBus()
    await bus.respond("billing", BILLING_BANDS, bands)
    async with running_github(Account(1, "ann")) as github:
        config = f'[site]\nport = 0\nsignup = "open"\napi_url = "{gateway.url}"\n{github_config(github)}{MODEL}'
        async with (
            running_site(tmp_path, config, bus) as url,
            running_chromium() as chromium,
            opened(chromium) as (page, faults),
        ):
            sent: list[str] = []
            page.on("request", lambda request: sent.append(f"{request.url} {request.headers} {request.post_data}"))
            await page.goto(f"{url}/sign-in?next=playground")
            await page.get_by_role("link", name="Sign in with GitHub").click()
            await page.get_by_role("link", name="Continue as ann").click()
            await page.wait_for_url(f"{url}/account/playground")
            await page.get_by_label("Key").fill("sk-wrong")
            await page.get_by_role("button", name="Send").click()
            await page.get_by_text("401 invalid_api_key: no such key").wait_for()
            faults.clear()  # the browser itself notes the 401

            await page.get_by_label("Key").fill(SECRET)
            await page.get_by_role("button", name="Send").click()
            await page.get_by_text("Waking h100x2: loading, about 142 s left.").wait_for()
            assert await page.locator("#play-phases li").all_inner_texts() == [
                "booting (h100x2), time left not known",
                "loading (h100x2), about 142 s left",
            ]
            gateway.woken.set()
            await page.get_by_text("Done.").wait_for()
            assert await page.locator("#play-text").inner_text() == "Hello <b>"
            assert (await page.locator("#play-usage dd").all_inner_texts())[:3] == [
                "11",
                "2",
                "$0.000026, at the $2.00 per million of the price band since 2026-11-01",
            ]
            assert faults == []
            stored = await page.evaluate("JSON.stringify({...localStorage, ...sessionStorage}) + document.cookie")
    assert gateway.keys == ["Bearer sk-wrong", f"Bearer {SECRET}"]
    assert SECRET not in stored
    assert not [request for request in sent if request.startswith(url) and SECRET in request]
