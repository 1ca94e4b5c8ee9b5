"""The public pages as any client gets them."""

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.kit.site import running_site

FORBIDDEN = ("unsafe-inline", "unsafe-eval", "*", "http:", "https:")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with running_site(tmp_path) as url, aiohttp.ClientSession(url, auto_decompress=False) as session:
        yield session


@pytest.mark.parametrize("path", ["/", "/index.json", "/nowhere", "/assets/site.0.css"])
async def test_every_response_has_the_headers(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as response:
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert not [word for word in FORBIDDEN if word in policy.split()]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert "Set-Cookie" not in response.headers


async def test_a_page_is_compressed_and_not_sent_again(client: aiohttp.ClientSession) -> None:
    async with client.get("/", headers={"Accept-Encoding": "gzip"}) as response:
        compressed, etag = await response.read(), response.headers["ETag"]
        assert response.headers["Content-Encoding"] == "gzip"
    async with client.get("/", headers={"Accept-Encoding": "identity"}) as response:
        assert await response.read() == gzip.decompress(compressed)
    async with client.get("/", headers={"If-None-Match": etag}) as response:
        assert response.status == 304
        assert await response.read() == b""
    async with client.head("/") as response:
        assert response.status == 200
        assert await response.read() == b""


async def test_assets_are_kept_for_ever_and_change_their_name_with_their_content(client: aiohttp.ClientSession) -> None:
    async with client.get("/", headers={"Accept-Encoding": "identity"}) as response:
        page = await response.text()
    path = page.split('rel="stylesheet" href="')[1].split('"')[0]
    async with client.get(path) as response:
        assert response.status == 200
        assert "immutable" in response.headers["Cache-Control"]
    async with client.get("/assets/site.000000000000.css") as response:
        assert response.status == 404


async def test_an_error_page_shows_neither_the_path_nor_a_traceback(client: aiohttp.ClientSession) -> None:
    async with client.get("/nowhere/<script>") as response:
        assert response.status == 404
        assert response.headers["Cache-Control"] == "no-store"
        text = await response.text()
    assert "There is no such page." in text
    assert "<script>alert" not in text
    assert "Traceback" not in text
