"""`python -m tests.integration.site.screenshots`: writes the pictures of the site that the documentation shows.

The figures and the clock are fixed, so a picture changes only when its page does, or the fonts of the host.
"""

import asyncio
import base64
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Page, Route

from tests.integration.site.scene import day_before
from tests.integration.site.test_pages_in_chromium import API_URL, Scene, scene
from tests.kit.browser import opened
from tests.kit.github import CLIENT_SECRET

IMAGES = Path(__file__).parents[3] / "docs" / "images"
MOST_BYTES = 60_000
WIDTH = 1100
QUALITY = 60
ANSWER = (
    ": waking tier=h100x2 phase=booting eta=214\n\n: waking tier=h100x2 phase=loading eta=142\n\n"
    'data: {"choices":[{"delta":{"content":"Hello, and good to meet you."}}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":36,"completion_tokens":8}}\n\ndata: [DONE]\n\n'
)
"""What the API says to the playground in its picture."""


@dataclass(frozen=True)
class Picture:
    """A page, and how much of it is shown."""

    path: str
    height: int


PICTURES: Mapping[str, Picture] = {
    "overview": Picture("/", 860),
    "economics": Picture("/economics", 1000),
    "trail": Picture(f"/economics/{day_before(4)}", 900),
    "status": Picture("/status", 860),
    "playground": Picture("/account/playground", 1230),
    "fleet": Picture("/operator", 720),
}


async def write_pictures(folder: Path) -> None:
    """Write each picture as WebP."""
    os.environ.setdefault("GITHUB_CLIENT_SECRET", CLIENT_SECRET)
    with tempfile.TemporaryDirectory() as data:
        async with scene(Path(data)) as running:
            for name, picture in PICTURES.items():
                image = await take_picture(running, picture)
                if len(image) > MOST_BYTES:
                    sys.exit(f"{name} has {len(image)} bytes: show less of its page")
                (folder / f"{name}.webp").write_bytes(image)


async def take_picture(running: Scene, picture: Picture) -> bytes:
    async with opened(running.browser, size=(WIDTH, picture.height), state=running.state) as (page, _):
        await page.route(f"{API_URL}/**", answer_prompt)
        await page.goto(running.url + picture.path)
        if picture.path.endswith("playground"):
            await _send_prompt(page)
        if picture.path == "/operator":
            await page.get_by_text("Live.", exact=True).wait_for()
        protocol = await page.context.new_cdp_session(page)
        image = await protocol.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    return base64.b64decode(image["data"])


async def answer_prompt(route: Route) -> None:
    headers = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*"}
    await route.fulfill(headers=headers, content_type="text/event-stream", body=ANSWER)


async def _send_prompt(page: Page) -> None:
    await page.clock.install()
    await page.clock.pause_at(4_102_444_800_000)  # or the seconds in all would differ each time
    await page.get_by_label("Key").fill("sk-of-somebody")
    await page.get_by_label("Model").select_option("qwen3-coder")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("Done.").wait_for()


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    asyncio.run(write_pictures(IMAGES))
