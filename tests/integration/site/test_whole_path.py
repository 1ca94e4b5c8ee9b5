"""A person on a running suite, in Chromium: refused, admitted, a key, a request, its usage, and the end of each."""

import re
import time
from pathlib import Path

import openai
import pytest
from openai.types import CompletionUsage
from playwright.async_api import Page, expect

from tests.integration.site.test_pages_in_chromium import begin_sign_in, sign_in
from tests.integration.suite.config import config
from tests.kit.browser import opened, running_chromium
from tests.kit.engine import engine_command
from tests.kit.github import Account, github_config, running_github
from tests.kit.up import up
from tests.kit.waiting import until


@pytest.mark.long
async def test_from_a_closed_sign_up_to_a_revoked_key(tmp_path: Path, tiny_model: Path) -> None:
    async with running_github(Account(1, "ann")) as github, running_chromium() as chromium:
        closed = config(engine_command(tiny_model)) + f"[site]\nport = 0\n{github_config(github)}"
        async with up(tmp_path, closed) as suite:
            url = suite.services["site"]["url"]
            async with opened(chromium) as (page, _):
                await begin_sign_in(page, url, "ann")
                await expect(page.locator("main")).to_contain_text("Sign-up is closed")

            suite.config.write_text(closed.replace("[site]", '[site]\nsignup = "list"\nallowed = ["github:1"]'))
            await suite.kill9("site")
            elsewhere = await sign_in(chromium, url, "ann")
            here = await sign_in(chromium, url, "ann")
            async with (
                opened(chromium, state=here) as (page, console),
                opened(chromium, state=elsewhere) as (other, _),
            ):
                secret = await _make_key(page, url)
                async with openai.AsyncOpenAI(base_url=suite.base_url, api_key=secret, max_retries=0) as sdk:
                    usage = await _stream(sdk)
                    await _see_usage(page, url, usage)
                    await _revoke(page, url, sdk)
                await page.goto(f"{url}/account/sessions")
                await page.get_by_role("button", name="End all other sessions").click()
                await other.goto(f"{url}/account/keys")
                assert other.url == f"{url}/sign-in?next=keys"
                await page.goto(f"{url}/account")
                for deed in ("signed up", "key created", "key revoked", "other sessions ended"):
                    await expect(page.locator("main")).to_contain_text(deed)
                assert console == []


async def _make_key(page: Page, url: str) -> str:
    await page.goto(f"{url}/account/keys")
    await page.get_by_role("link", name="Make a key").click()
    await page.get_by_label("Name").fill("ci")
    await page.get_by_role("button", name="Make the key").click()
    secret = await page.locator("#key-secret").inner_text()
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", secret)
    return secret


async def _stream(sdk: openai.AsyncOpenAI) -> CompletionUsage:
    stream = await sdk.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    return [chunk.usage async for chunk in stream if chunk.usage is not None][-1]


async def _see_usage(page: Page, url: str, usage: CompletionUsage) -> None:
    """On the page, and the same in the CSV."""

    async def row() -> str:
        await page.goto(f"{url}/account/usage")
        return await page.locator("section[aria-labelledby=tokens] tbody").inner_text()

    shown = await until(row, lambda text: "\t1\t" in text)
    assert f"\ttiny\tci\t1\t{usage.prompt_tokens}\t" in shown
    table = await (await page.request.get(f"{url}/account/usage.csv")).text()
    assert re.search(rf"tiny,ci,[0-9a-f-]{{36}},1,{usage.prompt_tokens},", table)


async def _revoke(page: Page, url: str, sdk: openai.AsyncOpenAI) -> None:
    """The key is refused within a second."""
    await page.goto(f"{url}/account/keys")
    await page.get_by_role("link", name="ci", exact=True).click()
    await page.get_by_label("I want programs").check()
    await page.get_by_role("button", name="Revoke the key").click()
    await expect(page.locator("main")).to_contain_text("revoked")
    revoked_at = time.monotonic()

    async def status() -> int:
        try:
            await sdk.models.list()
        except openai.AuthenticationError as error:
            return error.status_code
        return 200

    await until(status, lambda seen: seen == 401)
    assert time.monotonic() - revoked_at < 1.0
