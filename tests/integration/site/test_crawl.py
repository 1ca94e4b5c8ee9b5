"""Every page that can be reached: it is there, it is well formed, it is light, and so is what it links to."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urldefrag

import aiohttp
import pytest

from services.site.adapters.markdown import MarkdownRenderer, content_files
from services.site.core.text import library_of
from tests.kit.html_pages import ParsedPage
from tests.kit.site import running_site

MOST_BYTES = 100_000
"""A page with everything that a browser loads for it, compressed as it is sent."""
MOST_PAGES = 500
COMING: set[str] = set()
"""Pages that the texts name and that are not there yet."""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with running_site(tmp_path) as url, aiohttp.ClientSession(url) as session:
        yield session


async def crawl(client: aiohttp.ClientSession) -> tuple[dict[str, ParsedPage], dict[str, int]]:
    """Return every HTML page by its path, and the size in which each response travelled."""
    pages: dict[str, ParsedPage] = {}
    sizes: dict[str, int] = {}
    ahead = ["/"]
    while ahead:
        path = ahead.pop()
        if path in sizes:
            continue
        async with client.get(path) as response:
            if path in COMING and response.status == 404:
                continue
            assert response.status == 200, f"{path}: {response.status}"
            body = await response.read()
            sizes[path] = int(response.headers["Content-Length"])
            if response.content_type == "text/html":
                pages[path] = page = ParsedPage(body.decode())
                links = [urldefrag(link)[0] for link in [*page.links, *page.loads]]
                ahead += [link for link in links if link.startswith("/")]
        assert len(sizes) <= MOST_PAGES
    return pages, sizes


async def test_every_link_resolves_and_every_page_is_well_formed_and_light(client: aiohttp.ClientSession) -> None:
    pages, sizes = await crawl(client)
    assert pages.keys() >= library_of(content_files()).keys()
    assert {path: page.faults for path, page in pages.items() if page.faults} == {}
    lost = [
        f"{path} to {link}"
        for path, page in pages.items()
        for link in page.links
        for target, anchor in [urldefrag(link)]
        if anchor and (target or path) in pages and anchor not in pages[target or path].ids
    ]
    assert lost == []
    heavy = {path: sizes[path] + sum(sizes[load] for load in set(page.loads)) for path, page in pages.items()}
    assert {path: size for path, size in heavy.items() if size >= MOST_BYTES} == {}


async def test_learn_and_glossary_are_one_hop_from_every_page(client: aiohttp.ClientSession) -> None:
    pages, _ = await crawl(client)
    assert [path for path, page in pages.items() if not {"/learn", "/glossary", "/api"} <= set(page.links)] == []


async def test_each_text_is_there_as_markdown_with_its_figures(client: aiohttp.ClientSession) -> None:
    for path in library_of(content_files()):
        async with client.get(f"{path}.md") as response:
            assert (response.status, response.content_type) == (200, "text/markdown")
            text = await response.text()
        assert text.startswith("# ")
        assert "{{" not in text, path


async def test_the_index_for_models_and_the_map_name_pages_that_exist(client: aiohttp.ClientSession) -> None:
    async with client.get("/llms.txt") as response:
        index = await response.text()
    links = [part.partition(")")[0] for part in index.split("](")[1:]]
    assert len(links) > 60
    async with client.get("/sitemap.xml") as response:
        links += [part.partition("<")[0] for part in (await response.text()).split("<loc>")[1:]]
    async with client.get("/robots.txt") as response:
        links.append((await response.text()).partition("Sitemap: ")[2].strip())
    for link in links:
        async with client.get(link) as response:
            assert response.status == 200, link


@pytest.mark.parametrize("source", ["<b>x</b>", "a <img src=x onerror=alert(1)> b", "[x](javascript:alert(1))"])
def test_no_raw_html_passes(source: str) -> None:
    html = MarkdownRenderer().render(f"# Title\n\n{source}\n")
    parsed = ParsedPage(html)
    assert parsed.faults == []
    assert (parsed.links, parsed.loads) == ([], [])
    assert "<b>" not in html


def test_a_table_has_no_style_and_can_be_scrolled_with_the_keyboard() -> None:
    html = MarkdownRenderer().render("# Title\n\n## Limits & <more>\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n")
    assert ParsedPage(html).faults == []
    assert '<td class="number">2</td>' in html
    assert 'tabindex="0" aria-label="Table: Limits &amp; &lt;more&gt;"' in html
