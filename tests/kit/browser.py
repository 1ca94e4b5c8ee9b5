"""Debian's Chromium, driven by Playwright, and axe-core, which finds what keeps people from using a page."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.clients.environments import PINS, install_node, prepared

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
"""A container's root has no sandbox and little shared memory."""
PHONE, DESKTOP = (360, 740), (1280, 800)
PATIENCE_MS = 60_000
Scheme = Literal["light", "dark"]
expect.set_options(timeout=PATIENCE_MS)
NOT_GROUPED = re.compile(
    r"(?<![\w.,])\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?![\d:-])|\$\d{4}|(?<![\w.:/=-])\d{5,}(?![\w:/-])"
)
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


async def show(page: Page, size: tuple[int, int], scheme: Scheme) -> None:
    """Show the page that is loaded on a screen of this size and in these colours."""
    await page.set_viewport_size({"width": size[0], "height": size[1]})
    await page.emulate_media(color_scheme=scheme)


async def axe_violations(page: Page) -> list[str]:
    """What axe finds. It runs outside the page's policy, which would keep an injected script from running."""
    if not await page.evaluate("'axe' in window"):
        folder = prepared("axe-core", PINS / "axe-core" / "package-lock.json", install_node)
        await page.evaluate((folder / "node_modules/axe-core/axe.min.js").read_text("utf-8"))
    outcome = await page.evaluate("axe.run()")
    return [f"axe: {each['id']}: {node['html'][:200]}" for each in outcome["violations"] for node in each["nodes"]]


async def layout_faults(page: Page) -> list[str]:
    """What does not fit into the window or into 100 KB, and what is cut or seen and should not be."""
    return [
        str(fault)
        for fault in await page.evaluate(
            """() => {
                const width = document.documentElement.scrollWidth, faults = [];
                if (width > window.innerWidth) faults.push(`${width} pixels wide in ${window.innerWidth}`);
                const loads = ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind));
                const bytes = loads.reduce((sum, load) => sum + load.encodedBodySize, 0);
                if (bytes < 1000 || bytes > 100000) faults.push(`${bytes} bytes`);
                for (const badge of document.querySelectorAll(".badge"))
                    if (badge.offsetHeight > 40) faults.push(`cut: ${badge.outerHTML}`);
                for (const hidden of document.querySelectorAll("[hidden]"))
                    if (hidden.checkVisibility()) faults.push(`hidden, and seen: ${hidden.outerHTML}`);
                return faults;
            }"""
        )
    ]


async def number_faults(page: Page) -> list[str]:
    """Numbers whose digits are not grouped by commas as on every other page. Code and identifiers are left out."""
    texts = await page.evaluate(
        """() => {
            const texts = [], walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
            while (walker.nextNode())
                if (!walker.currentNode.parentElement.closest("code, pre, script, textarea, option"))
                    texts.push(walker.currentNode.data);
            return texts;
        }"""
    )
    return [f"not grouped by commas: {text.strip()}" for text in texts if NOT_GROUPED.search(text)]


async def keyboard_faults(page: Page) -> list[str]:
    """What the key Tab does not reach in one round from the top, or reaches without showing it.

    The first thing that it reaches leads past the navigation.
    """
    await page.evaluate(
        f"""() => {{
            const usable = [...document.querySelectorAll("{FOCUSABLE}")]
                .filter((element) => element.checkVisibility() && !element.disabled);
            window.tabbing = {{ usable, reached: new Set(), faults: [] }};
            document.activeElement?.blur();
            document.addEventListener("focusin", ({{ target }}) => {{
                const {{ reached, faults }} = window.tabbing;
                const style = getComputedStyle(target), box = target.getBoundingClientRect();
                if (!reached.size && (target.className !== "skip" || box.left < 0))
                    faults.push("nothing leads past the navigation");
                if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2)
                    faults.push(`no focus seen: ${{target.outerHTML.slice(0, 120)}}`);
                reached.add(target);
            }});
        }}"""
    )
    count = int(await page.evaluate("window.tabbing.usable.length")) + 2
    await asyncio.gather(*(page.keyboard.press("Tab") for _ in range(count)))  # sent in order, without waiting for each
    return [
        str(fault)
        for fault in await page.evaluate(
            """() => {
                const { usable, reached, faults } = window.tabbing;
                const missing = usable.filter((element) => !reached.has(element));
                return [...faults, ...missing.map((element) => `not reached: ${element.outerHTML.slice(0, 120)}`)];
            }"""
        )
    ]
