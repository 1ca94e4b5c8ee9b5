"""The public pages as any client gets them."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp.compression_utils import ZLibDecompressor
from prometheus_client import CollectorRegistry

from services.site.adapters.http import connections
from services.site.app.page_cache import PageCache
from shared.runtime.health import Health, serve_health
from tests.kit.site import running_site
from tests.kit.waiting import PATIENCE_SECONDS

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


async def test_what_is_no_request_gets_the_headers_and_no_echo(client: aiohttp.ClientSession) -> None:
    for sent in (b"<script>evil\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nevil\r\n\r\n", b"GET /" + b"evil" * 20_000):
        async with raw_connection(str(client._base_url)) as (reader, writer):
            writer.write(sent)
            answer = await reader.read(-1)
        assert b" 400 " in answer.splitlines()[0]
        assert b"evil" not in answer
        for header in (b"X-Content-Type-Options: nosniff", b"default-src 'none'", b"Cache-Control: no-store"):
            assert header in answer


async def test_connections_that_only_wait_make_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 5)
    async with running_site(tmp_path) as url, AsyncExitStack() as stack:
        waiting = [await stack.enter_async_context(raw_connection(url)) for _ in range(8)]
        for _, writer in waiting:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        async with aiohttp.ClientSession(url) as session, session.get("/") as response:
            assert response.status == 200
        for reader, _ in waiting[:4]:  # the page took the place of one more
            with suppress(ConnectionError):
                assert await reader.read() == b""


async def test_a_slow_client_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "FIRST_REQUEST_S", 0.1)
    monkeypatch.setattr(connections, "SEND_S", 0.1)
    async with running_site(tmp_path) as url:
        async with raw_connection(url) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
            with suppress(ConnectionError):
                assert await reader.read() == b""
        async with raw_connection(url) as (_, writer):
            while not writer.transport.is_closing():
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
                with suppress(ConnectionError):
                    await writer.drain()


@asynccontextmanager
async def raw_connection(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of a client that reads only what it is asked to."""
    parts = urlsplit(url)
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def test_pages_that_are_not_there_displace_none() -> None:
    cache, loads = PageCache[str | None](lambda: 0.0, most=3), list[str]()

    async def load(key: str, value: str | None) -> str | None:
        loads.append(key)
        return value

    for _ in range(2):
        assert await cache.get("/", lambda: load("/", "page"), fresh_s=60) == "page"
        for day in range(5):
            assert await cache.get(f"/{day}", partial(load, f"/{day}", None), fresh_s=60) is None
    assert loads.count("/") == 1


async def test_page_that_was_loading_at_a_change_is_not_kept() -> None:
    cache, begun, published, load_ends = PageCache[str](lambda: 0.0), asyncio.Event(), ["1"], asyncio.Event()

    async def load() -> str:
        revision = published[-1]
        begun.set()
        await load_ends.wait()
        return revision

    reading = asyncio.create_task(cache.get("/", load, fresh_s=60))
    await begun.wait()
    published.append("2")
    cache.clear()
    load_ends.set()
    assert await reading == "1"
    assert await cache.get("/", load, fresh_s=60) == "2"


async def test_nothing_that_a_client_sends_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[bytes] = []

    def unpack(_decompressor: object, data: bytes, **_options: int) -> bytes:
        unpacked.append(data)
        return b""

    monkeypatch.setattr(ZLibDecompressor, "decompress_sync", unpack)
    bomb = gzip.compress(bytes(10_000_000))
    async with running_site(tmp_path) as url, serve_health(Health(), CollectorRegistry(), "127.0.0.1", 0) as port:
        for page in (f"{url}/sign-out", f"{url}/", f"http://127.0.0.1:{port}/livez"):
            async with raw_connection(page) as (reader, writer):
                head = (
                    f"POST {urlsplit(page).path} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nConnection: close\r\n"
                )
                writer.write(f"{head}Content-Length: {len(bomb)}\r\n\r\n".encode() + bomb)
                assert (await reader.read()).startswith((b"HTTP/1.1 403", b"HTTP/1.1 405"))
    assert unpacked == []
