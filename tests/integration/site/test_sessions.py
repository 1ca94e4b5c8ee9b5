"""Sessions: what ends them, whose forms count, and who may use which route."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from services.site.adapters.http.account import gate as gate_module
from services.site.adapters.http.account.gate import AccountRoute
from services.site.core.origins import form_token
from services.site.core.people import Role
from services.site.wiring import accounts
from tests.kit.github import Account, Github, github_config, running_github
from tests.kit.site import Browser, running_site

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
async def github() -> AsyncIterator[Github]:
    async with running_github(Account(1, "ann"), Account(2, "olga"), Account(3, "vic"), Account(4, "bob")) as running:
        yield running


def config(github: Github, more: str = "") -> str:
    roles = 'signup = "open"\noperators = ["github:2"]\nviewers = ["github:3"]'
    return f"[site]\nport = 0\n{roles}\n{more}\n{github_config(github)}"


async def test_a_session_is_ended_from_another_browser(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as old, Browser(url) as new:
        await old.sign_in("ann")
        await new.sign_in("ann")
        page = await new.get("/account/sessions")
        action = re.findall(r'action="(/account/sessions/[0-9a-f-]+/end)"', page.text)[-1]
        assert (await old.get("/account")).status == 200
        assert (await new.post(action, page.form(action))).status == 303
        answer = await old.get("/account/sessions")
        assert (answer.status, answer.location) == (303, "/sign-in?next=sessions")
        assert (await new.get("/account")).status == 200
        assert "session ended" in (await new.get("/account")).text


async def test_all_other_sessions_are_ended_at_once(github: Github, tmp_path: Path) -> None:
    async with (
        running_site(tmp_path, config(github)) as url,
        Browser(url) as first,
        Browser(url) as second,
        Browser(url) as third,
    ):
        for browser in (first, second, third):
            await browser.sign_in("ann")
        action = "/account/sessions/end-others"
        await third.post(action, (await third.get("/account/sessions")).form(action))
        statuses = [(await browser.get("/account")).status for browser in (first, second, third)]
    assert statuses == [303, 303, 200]


async def test_signing_out_ends_the_session_itself(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser, Browser(url) as thief:
        await browser.sign_in("ann")
        cookie = browser.cookie()
        assert (await thief.get("/account", Cookie=f"session={cookie}")).status == 200
        answer = await browser.post("/sign-out", (await browser.get("/account")).form("/sign-out"))
        assert (answer.status, answer.location) == (303, "/sign-in")
        assert (await thief.get("/account", Cookie=f"session={cookie}")).status == 303


async def test_signing_in_again_ends_the_session_before(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser, Browser(url) as thief:
        await browser.sign_in("ann")
        before = browser.cookie()
        await browser.sign_in("ann")
        assert browser.cookie() != before
        assert (await thief.get("/account", Cookie=f"session={before}")).status == 303


@pytest.mark.parametrize(("login", "idle_s", "max_s"), [("ann", 12 * HOUR, 7 * DAY), ("olga", HOUR, 12 * HOUR)])
async def test_a_session_ends_by_itself(
    github: Github, tmp_path: Path, login: str, idle_s: float, max_s: float
) -> None:
    clock = [time.time()]
    async with running_site(tmp_path, config(github), now=lambda: clock[0]) as url:
        async with Browser(url) as browser:
            await browser.sign_in(login)
            clock[0] += idle_s - 61
            assert (await browser.get("/account")).status == 200
            clock[0] += idle_s + 61
            assert (await browser.get("/account")).status == 303
        async with Browser(url) as browser:
            await browser.sign_in(login)
            cookie, ends = browser.cookie(), clock[0] + max_s
            while clock[0] < ends - idle_s / 2:
                assert (await browser.get("/account", Cookie=f"session={cookie}")).status == 200
                clock[0] += idle_s / 2
            clock[0] = ends
            assert (await browser.get("/account", Cookie=f"session={cookie}")).status == 303


async def test_a_short_idle_time_ends_no_session_in_use(github: Github, tmp_path: Path) -> None:
    clock = [time.time()]
    short = config(github, 'session_idle = "1m"')
    async with running_site(tmp_path, short, now=lambda: clock[0]) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        for after_s, status in ((59, 200), (0.5, 200), (59.9, 200), (62, 303)):
            clock[0] += after_s
            assert (await browser.get("/account")).status == status


async def test_only_the_hash_of_a_session_is_stored(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        cookie = browser.cookie()
        assert len(cookie) == 43
        files = b"".join(file.read_bytes() for file in tmp_path.rglob("*.sqlite*"))  # noqa: ASYNC240 - a test may
    assert cookie.encode() not in files


async def test_cookies_follow_from_the_scheme(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        begun = await browser.get("/sign-in/github")
        (plain,) = begun.cookies
        assert plain.startswith("sign-in=")
    https = config(github, 'public_url = "https://site.example"')
    async with running_site(tmp_path, https) as url, Browser(url) as browser:
        begun = await browser.get("/sign-in/github")
        (cookie,) = begun.cookies
        back = (await browser.get(f"{begun.location}&login=ann")).location
        assert back.startswith("https://site.example/sign-in/github/callback?")
        value = cookie.split(";")[0]
        answer = await browser.get(back.removeprefix("https://site.example"), Cookie=value)
        (session, cleared) = answer.cookies
    assert cookie.startswith("__Host-sign-in=")
    assert "Max-Age=600" in cookie
    assert session.startswith("__Host-session=")
    assert cleared.startswith('__Host-sign-in=""; ')
    assert "Max-Age=0" in cleared
    assert "Max-Age=604800" in session
    for each in (cookie, session, cleared):
        assert {"HttpOnly", "Secure", "SameSite=Lax", "Path=/"} <= set(each.split("; "))
    assert "Strict-Transport-Security" in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
    ],
)
async def test_a_form_of_another_site_does_nothing(github: Github, tmp_path: Path, headers: dict[str, str]) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        form = (await browser.get("/account")).form("/sign-out")
        answer = await browser._send("POST", "/sign-out", headers, form)
        assert answer.status == 403
        assert (await browser.get("/account")).status == 200


async def test_a_form_needs_the_token_of_its_session_and_page(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser, Browser(url) as other:
        await browser.sign_in("ann")
        await other.sign_in("bob")
        own, page = (await browser.get("/account")).form("/sign-out"), await other.get("/account/sessions")
        action = re.findall(r'action="(/account/sessions/[0-9a-f-]+/end)"', page.text)[0]
        for form in ({}, {"token": ""}, {"token": "é"}, page.form("/sign-out"), page.form(action)):
            assert (await browser.post("/sign-out", form)).status == 403
        assert (await browser.post("/sign-out", {**own, "more": "1"})).status == 400
        # by an old browser that sends `Origin` alone
        assert (await browser._send("POST", "/sign-out", {"Origin": url}, own)).status == 303


async def test_what_is_no_form_is_refused(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        token = (await browser.get("/account")).form("/sign-out")["token"]
        own = {"Sec-Fetch-Site": "same-origin"}
        for type_, body, status in (
            ("application/x-www-form-urlencoded", f"token={token}&token={token}", 400),
            ("application/json", f'{{"token": "{token}"}}', 400),
            ("application/x-www-form-urlencoded", "token=" + "a" * 20_000, 413),
            ("application/x-www-form-urlencoded", b"token=\xff\xfe", 400),
            ("application/x-www-form-urlencoded; charset=nothing", f"token={token}", 400),
            ("application/x-www-form-urlencoded; charset=unicode_escape", "token=\\ud800", 400),
        ):
            headers = {"Content-Type": type_, **own}
            async with browser.http.post(f"{url}/sign-out", data=body, headers=headers) as answer:
                assert answer.status == status


async def test_a_form_that_does_not_arrive_is_not_awaited(
    github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "FORM_S", 0.1)

    async def body() -> AsyncIterator[bytes]:
        yield b"token="
        await asyncio.Event().wait()

    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        await browser.sign_in("ann")
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
        async with browser.http.post(f"{url}/sign-out", data=body(), headers=headers) as answer:
            assert (answer.status, "did not arrive" in await answer.text()) == (400, True)


async def test_the_forms_of_a_person_are_bounded(
    github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may write to the bus and to the audit, so one person's further sessions do not help."""
    monkeypatch.setattr(accounts, "FORMS_PER_MINUTE", 3)
    async with running_site(tmp_path, config(github)) as url, Browser(url) as ann, Browser(url) as bob:
        await bob.sign_in("bob")
        statuses = []
        for _ in range(2):
            await ann.sign_in("ann")
            statuses += [(await ann.post("/account/keys/new")).status for _ in range(2)]
        assert statuses == [403, 403, 403, 429]
        assert (await bob.post("/account/keys/new")).status == 403
        # What ends access is not counted: a thief with the cookie could delay it.
        for path in ("/account/keys/k/revoke", "/account/sessions/s/end", "/account/sessions/end-others", "/sign-out"):
            assert (await ann.post(path)).status == 403
        assert (await ann.post("/sign-out", (await ann.get("/account")).form("/sign-out"))).status == 303


async def test_the_session_of_somebody_else_is_not_there(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as ann, Browser(url) as bob:
        await ann.sign_in("ann")
        await bob.sign_in("bob")
        page = await ann.get("/account/sessions")
        (action,) = re.findall(r'action="(/account/sessions/[0-9a-f-]+/end)"', page.text)
        cookie = bob.cookie()
        token = form_token(cookie, action)
        assert (await bob.post(action, {"token": token})).status == 404
        assert (await ann.get("/account")).status == 200


async def test_each_route_is_open_to_its_role_and_those_above(
    github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table: list[AccountRoute] = []
    routes = gate_module.Gate.routes

    def keep(self: gate_module.Gate, part: list[AccountRoute]) -> list[web.RouteDef]:
        table.extend(part)
        return routes(self, part)

    monkeypatch.setattr(gate_module.Gate, "routes", keep)
    async with running_site(tmp_path, config(github)) as url:
        for login, role in (("", None), ("ann", Role.USER), ("vic", Role.VIEWER), ("olga", Role.OPERATOR)):
            async with Browser(url) as browser:
                if login:
                    await browser.sign_in(login)
                for route in table:
                    path = re.sub(r"\{[^}]*\}", "x", route.path)
                    answer = await (browser.get(path) if route.method == "GET" else browser.post(path))
                    where = f"{login or 'nobody'} {route.method} {route.path}"
                    if role is None:
                        assert (answer.status, answer.location.split("?")[0]) == (303, "/sign-in"), where
                    elif role < route.role:
                        assert answer.status == 403, where
                        assert f"for the role {route.role.label}" in answer.text, where
                    else:
                        assert "for the role" not in answer.text, where
                        assert answer.status == 403 if route.method == "POST" else answer.status < 500, where
                        assert route.method == "GET" or "another session" in answer.text, where
    assert {route.role for route in table} >= {Role.USER}
    assert all(route.method in ("GET", "POST") for route in table)


async def test_signed_in_pages_are_kept_nowhere_and_public_ones_are_the_same(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        public = await browser.get("/")
        await browser.sign_in("ann")
        assert (await browser.get("/")).text == public.text
        for path in ("/account", "/account/sessions", "/sign-in"):
            answer = await browser.get(path)
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
