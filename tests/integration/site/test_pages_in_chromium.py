"""Every page in Chromium: on a phone and a desktop, light and dark, by keyboard alone, without scripts, and by axe."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from shared.bus.memory import MemoryBus
from shared.bus.subjects import BILLING_STATEMENT, METER_TOKENS
from shared.bus.topology import KEYS
from shared.messages.codec import encode
from shared.messages.keys import KeyRecord, digest
from tests.integration.site.pages import OPERATOR, PUBLIC, USER
from tests.integration.site.test_own_keys import MODEL, billing, meter
from tests.kit.browser import (
    DESKTOP,
    PHONE,
    Scheme,
    axe_violations,
    is_wider_than_its_window,
    opened,
    running_chromium,
    unreachable_by_keyboard,
)
from tests.kit.github import Account, github_config, running_github
from tests.kit.site import running_site

PAGES = [*((path, False) for path in PUBLIC), *((path, True) for path in (*USER, *OPERATOR))]
SIZES = [(PHONE, "light"), (PHONE, "dark"), (DESKTOP, "light"), (DESKTOP, "dark")]


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[str]:
    """With an operator, who has a key that was used."""
    bus = MemoryBus()
    record = KeyRecord(
        id="k1",
        name="ci",
        created_at=time.time(),
        owner="github:1",
        hint="abcd",
        requests_per_minute=60,
        monthly_tokens=9,
    )
    await bus.create(KEYS, digest("k1"), encode(record))
    await bus.respond("meter", METER_TOKENS, meter)
    await bus.respond("billing", BILLING_STATEMENT, billing)
    async with running_github(Account(1, "ann", "Ann")) as github:
        config = f'[site]\nport = 0\noperators = ["github:1"]\n{github_config(github)}{MODEL}'
        async with running_site(folder, config, bus) as url:
            yield url


async def sign_in(browser: Browser, url: str) -> Any:
    """By the pages themselves, without scripts; returns the cookies."""
    async with opened(browser, scripts=False) as (page, _):
        await page.goto(f"{url}/account")
        await page.get_by_role("link", name="Sign in with GitHub").click()
        await page.get_by_role("link", name="Continue as ann").click()
        await page.wait_for_url(f"{url}/account")
        return await page.context.storage_state()


@pytest.mark.parametrize(("path", "is_behind"), PAGES, ids=[path for path, _ in PAGES])
async def test_a_page_works_for_everybody(tmp_path: Path, path: str, is_behind: bool) -> None:
    async with site(tmp_path) as url, running_chromium() as browser:
        state = await sign_in(browser, url) if is_behind else None
        texts = []
        for size, scheme in SIZES:
            async with opened(browser, size=size, scheme=_scheme(scheme), state=state) as (page, faults):
                await page.goto(url + path)
                assert not await is_wider_than_its_window(page), size
                assert [fault for fault in faults if "404" not in fault] == []
                if scheme == "light":
                    assert await unreachable_by_keyboard(page) == []
                    assert await page.locator("h1").count() == 1
                texts.append(await page.locator("main").inner_text())
        async with opened(browser, scripts=False, state=state) as (page, _):
            await page.goto(url + path)
            assert await page.locator("h1").inner_text() in texts[-1]
            assert await page.locator("main").inner_text()


@pytest.mark.long  # axe's package comes from npm's registry
@pytest.mark.parametrize(("path", "is_behind"), PAGES, ids=[path for path, _ in PAGES])
async def test_axe_finds_nothing(tmp_path: Path, path: str, is_behind: bool) -> None:
    async with site(tmp_path) as url, running_chromium() as browser:
        state = await sign_in(browser, url) if is_behind else None
        for size, scheme in ((PHONE, "light"), (DESKTOP, "dark")):
            async with opened(browser, size=size, scheme=_scheme(scheme), state=state) as (page, _):
                await page.goto(url + path)
                assert await axe_violations(page) == [], (size, scheme)


def _scheme(name: str) -> Scheme:
    return "dark" if name == "dark" else "light"
