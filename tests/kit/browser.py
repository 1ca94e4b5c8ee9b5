"""Debian's Chromium, driven by Playwright, and axe-core, which finds what keeps people from using a page."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, Page, async_playwright

from tests.clients.environments import PINS, install_node, prepared

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
"""A container's root has no sandbox and little shared memory."""
PHONE, DESKTOP = (360, 740), (1280, 800)
PATIENCE_MS = 60_000
Scheme = Literal["light", "dark"]
FOCUSABLE = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"


@asynccontextmanager
async def running_chromium() -> AsyncIterator[Browser]:
    assert os.access(CHROMIUM, os.X_OK), f"{CHROMIUM} is missing: install Debian's package `chromium`"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser,
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: Scheme = "light",
    scripts: bool = True,
    state: Any = None,
) -> AsyncIterator[tuple[Page, list[str]]]:
    """A page, and what its console complains of, violations of the page's own policy among it."""
    width, height = size
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        java_script_enabled=scripts,
        timezone_id="America/Los_Angeles",  # far from UTC, in which all days are
        storage_state=state,
    )
    context.set_default_timeout(PATIENCE_MS)
    faults: list[str] = []
    try:
        page = await context.new_page()
        page.on(
            "console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        yield page, faults
    finally:
        await context.close()


async def axe_violations(page: Page) -> list[str]:
    """What axe finds. It runs outside the page's policy, which would keep an injected script from running."""
    folder = prepared("axe-core", PINS / "axe-core" / "package-lock.json", install_node)
    await page.evaluate((folder / "node_modules/axe-core/axe.min.js").read_text("utf-8"))
    outcome = await page.evaluate("axe.run()")
    return [f"{each['id']}: {node['html'][:200]}" for each in outcome["violations"] for node in each["nodes"]]


async def is_wider_than_its_window(page: Page) -> bool:
    return bool(await page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


async def unreachable_by_keyboard(page: Page) -> list[str]:
    """What can be used and is not reached by the key Tab, in one round from the top."""
    await page.evaluate(
        f"""() => {{
            window.reached = new Set();
            document.addEventListener("focusin", (event) => window.reached.add(event.target));
            window.usable = [...document.querySelectorAll("{FOCUSABLE}")]
                .filter((element) => element.checkVisibility() && !element.disabled);
        }}"""
    )
    count = int(await page.evaluate("window.usable.length"))
    for _ in range(count + 2):
        await page.keyboard.press("Tab")
    missing = "window.usable.filter((e) => !window.reached.has(e)).map((e) => e.outerHTML.slice(0, 120))"
    return [str(html) for html in await page.evaluate(missing)]
