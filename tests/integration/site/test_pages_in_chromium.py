"""Every page in Chromium: on a phone and a desktop, light and dark, by keyboard alone, without scripts, and by axe.

One site and one browser serve all pages, and a page is loaded once for all that is looked at: a load costs more than
a look.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from services.site.app.attempts import PER_MINUTE
from tests.integration.site.pages import DEEDS, OPERATOR, PUBLIC, USER
from tests.integration.site.scene import running_scene
from tests.kit.browser import (
    DESKTOP,
    PHONE,
    Scheme,
    axe_violations,
    keyboard_faults,
    layout_faults,
    number_faults,
    opened,
    running_chromium,
    show,
)
from tests.kit.github import Account, github_config, running_github

SCREENS: tuple[tuple[tuple[int, int], Scheme], ...] = (
    (PHONE, "light"),
    (PHONE, "dark"),
    (DESKTOP, "dark"),
    (DESKTOP, "light"),
)
PEOPLE = Account(1, "ann", "Ann"), Account(2, "vic", "Vic"), Account(3, "bob", "Bob")
API_URL = "https://api.example.com"
ROLES = f'operators = ["github:1"]\nviewers = ["github:2"]\napi_url = "{API_URL}"'
SCRIPTED = ("/operator", "/account/playground")
"""Without scripts these say that they are not live."""
PageCheck = Callable[[Page, bool], Awaitable[list[str]]]
"""What is wrong with a page that is shown. The second argument: it was loaded by its path alone."""


@dataclass(frozen=True)
class Scene:
    """The site, and a browser in which an operator is signed in by `state`."""

    url: str
    browser: Browser
    state: Any


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    async with (
        running_github(*PEOPLE) as github,
        running_scene(folder, f"{ROLES}\n{github_config(github)}") as url,
        running_chromium() as browser,
    ):
        yield Scene(url, browser, await sign_in(browser, url, "ann"))


async def sign_in(browser: Browser, url: str, login: str) -> Any:
    """By the pages themselves, without scripts; returns the cookies."""
    async with opened(browser, scripts=False) as (page, _):
        await begin_sign_in(page, url, login)
        await page.wait_for_url(f"{url}/account")
        return await page.context.storage_state()


async def begin_sign_in(page: Page, url: str, login: str) -> None:
    await page.goto(f"{url}/account")
    await page.get_by_role("link", name="Sign in with GitHub").click()
    await page.get_by_role("link", name=f"Continue as {login}").click()


async def walk(scene: Scene, check: PageCheck) -> dict[str, list[str]]:
    """Show every page, and return what is wrong by page."""
    wrong: dict[str, list[str]] = {}
    async with opened(scene.browser, state=scene.state) as (page, console):

        async def note(name: str, *, is_path: bool = False) -> None:
            of_page = [*await check(page, is_path), *(fault for fault in console if not _is_expected(fault))]
            console.clear()
            if of_page:
                wrong[name] = of_page

        for path in (*PUBLIC, *USER, *OPERATOR):
            await page.goto(scene.url + path)
            await note(path, is_path=True)
        for words, do in DEEDS.items():
            await do(page, scene.url)
            await page.get_by_text(words).first.wait_for()
            await note(words)
        await page.context.clear_cookies()
        for login, words in (("bob", "Sign-up is closed"), ("vic", "Vic")):
            await begin_sign_in(page, scene.url, login)
            await page.get_by_text(words).first.wait_for()
            await note(words)
        for path, status in (("/operator/keys/k1/revoke", 403), ("/sign-in/github", 429)):
            for _ in range(PER_MINUTE * (status == 429)):
                await page.request.get(scene.url + path, max_redirects=0)
            answer = await page.goto(scene.url + path)
            assert answer is not None
            assert answer.status == status
            await note(f"{status}")
    return wrong


def _is_expected(fault: str) -> bool:
    """Chromium notes the status of a page that refuses, and that a stream ends when its page is left."""
    return "responded with a status of 4" in fault or fault.endswith("/operator/events")


async def test_every_page_works_on_every_screen_by_keyboard_and_without_scripts(tmp_path: Path) -> None:
    names: set[str] = set()

    async def faults_of(page: Page, is_path: bool) -> list[str]:
        faults = []
        if is_path:
            for name in (f"title: {await page.title()}", f"heading: {await page.locator('h1').inner_text()}"):
                if name in names:
                    faults.append(f"{name}: another page has it too")
                names.add(name)
        for size, scheme in SCREENS[::2]:  # colours do not move anything
            await show(page, size, scheme)
            faults += [f"{size[0]} {scheme}: {fault}" for fault in await layout_faults(page)]
        if is_path and page.url.removeprefix(running.url) not in SCRIPTED:
            await without_scripts.goto(page.url)
            if await without_scripts.locator("main").inner_text() != await page.locator("main").inner_text():
                faults.append("says something else without scripts")
        return [*faults, *await number_faults(page), *await keyboard_faults(page)]

    async with (
        scene(tmp_path) as running,
        opened(running.browser, state=running.state, scripts=False) as (without_scripts, _),
    ):
        wrong = await walk(running, faults_of)
    assert wrong == {}, json.dumps(wrong, indent=1)


@pytest.mark.long  # axe's package comes from npm's registry
async def test_axe_finds_nothing(tmp_path: Path) -> None:
    async def faults_of(page: Page, _: bool) -> list[str]:
        faults = []
        for size, scheme in SCREENS:
            await show(page, size, scheme)
            faults += [f"{size[0]} {scheme}: {fault}" for fault in await axe_violations(page)]
        return faults

    async with scene(tmp_path) as running:
        wrong = await walk(running, faults_of)
    assert wrong == {}, json.dumps(wrong, indent=1)
