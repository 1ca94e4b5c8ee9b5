"""The site in this process, on a bus in memory, for tests of its pages, and browsers for what is behind the sign-in."""

import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Self

import aiohttp
from yarl import URL

from services.site import wiring
from shared.bus.memory import MemoryBus
from shared.bus.ports import Bus
from shared.config.load import parse
from shared.runtime.process import Runtime

CONFIG = """
[site]
port = 0
"""


@asynccontextmanager
async def running_site(
    folder: Path,
    config: str = CONFIG,
    bus: Bus | None = None,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncIterator[str]:
    """Yields its origin."""
    runtime = Runtime(
        service="site",
        config=parse(config, "test"),
        data_dir=folder,
        bus=bus or MemoryBus(),
        port=None,
        now=now,
        monotonic=monotonic,
    )
    async with wiring.service(runtime):
        assert runtime.url is not None
        yield runtime.url
    await runtime.cancel_tasks()


@dataclass(frozen=True)
class Answer:
    """What a browser got, redirections not followed."""

    status: int
    text: str
    headers: dict[str, str]
    cookies: list[str]
    """The header `Set-Cookie`, as often as it came."""

    @property
    def location(self) -> str:
        return self.headers.get("Location", "")

    def form(self, action: str) -> dict[str, str]:
        """The hidden fields of the form that is sent to `action`."""
        parser = _Forms()
        parser.feed(self.text)
        return dict(parser.forms[action])


class Browser:
    """Keeps cookies and sends forms as a browser does."""

    def __init__(self, origin: str, trusted: ssl.SSLContext | None = None) -> None:
        self.origin = origin
        connector = None if trusted is None else aiohttp.TCPConnector(ssl=trusted)
        self.http = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), connector=connector)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.http.close()

    async def get(self, url: str, **headers: str) -> Answer:
        return await self._send("GET", url, headers, None)

    async def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Answer:
        return await self._send("POST", path, {"Sec-Fetch-Site": "same-origin", **headers}, form or {})

    async def sign_in(self, login: str, next_name: str = "") -> Answer:
        """The whole way by the stand-in for GitHub; returns the callback's answer."""
        begun = await self.get(f"/sign-in/github?next={next_name}")
        assert begun.status == 303, begun.text
        allowed = await self.get(f"{begun.location}&login={login}")
        return await self.get(allowed.location)

    def cookie(self) -> str:
        """The session's."""
        return self.http.cookie_jar.filter_cookies(URL(self.origin))["session"].value

    async def _send(self, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None) -> Answer:
        absolute = URL(url if url.startswith("http") else self.origin + url, encoded=True)
        async with self.http.request(method, absolute, headers=headers, data=form, allow_redirects=False) as answer:
            text = await answer.text()
            return Answer(answer.status, text, dict(answer.headers), answer.headers.getall("Set-Cookie", []))


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: dict[str, dict[str, str]] = {}
        self._action = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._action = values.get("action", "")
            self.forms[self._action] = {}
        elif tag == "input" and values.get("type") == "hidden":
            self.forms[self._action][values["name"]] = values.get("value", "")
