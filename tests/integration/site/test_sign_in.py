"""Signing in with GitHub, as it is: whose browser, which identity, who may, and what stays of it."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from services.site.adapters.identity import oauth
from services.site.adapters.identity.oauth import OAuthClient
from services.site.adapters.schema import SITE_FILE
from tests.kit.github import Account, Github, github_config, running_github
from tests.kit.site import Browser, running_site
from tests.kit.waiting import until

ANN, BOB, EVE = Account(1, "ann", "Ann"), Account(2, "bob"), Account(3, "eve")


@pytest.fixture
async def github() -> AsyncIterator[Github]:
    async with running_github(ANN, BOB, EVE) as running:
        yield running


def config(github: Github, more: str = 'signup = "open"') -> str:
    return f"[site]\nport = 0\n{more}\n{github_config(github)}"


def stored(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*.sqlite*"))


async def test_one_is_signed_in_and_the_token_is_gone(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        assert (await browser.get("/account")).location == "/sign-in?next=account"
        answer = await browser.sign_in("ann", "sessions")
        assert (answer.status, answer.location) == (303, "/account/sessions")
        page = await browser.get("/account")
        assert page.status == 200
        assert "github:1" in page.text
        assert page.headers["Cache-Control"] == "no-store"
    query = github.authorized[0]
    assert query["code_challenge_method"] == "S256"
    assert "scope" not in query
    assert len(github.exchanged[0]["code_verifier"]) >= 43
    assert len(github.deleted) == 1
    assert github.tokens == {}
    assert b"gho_" not in stored(tmp_path)


async def test_a_state_of_another_browser_signs_nobody_in(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as eve, Browser(url) as victim:
        begun = await eve.get("/sign-in/github")
        back = (await eve.get(f"{begun.location}&login=eve")).location
        assert (await victim.get(back)).status == 400
        await victim.get("/sign-in/github")  # with a cookie of its own
        assert (await victim.get(back)).status == 400
        assert (await victim.get("/account")).status == 303
        assert (await eve.get(back)).status == 303
        assert (await eve.get(back)).status == 400  # a state is used once
        for query in ("", "?code=x", "?state=&code=x", "?state=x", "?code=x&code=y&state=z"):
            assert (await victim.get(f"/sign-in/github/callback{query}")).status == 400


async def test_tabs_of_a_browser_sign_in_beside_each_other(github: Github, tmp_path: Path) -> None:
    """Neither the tab that is first nor a foreign link to the callback ends the sign-in of another; the newest stay."""
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        begun = [await browser.get("/sign-in/github") for _ in range(5)]
        backs = [(await browser.get(f"{each.location}&login=ann")).location for each in begun]
        assert (await browser.get("/sign-in/github/callback?code=x&state=y")).status == 400
        assert [(await browser.get(back)).status for back in backs] == [400, 303, 303, 303, 303]
        assert (await browser.get(backs[-1])).status == 400


async def test_a_state_ends_after_ten_minutes(github: Github, tmp_path: Path) -> None:
    clock = [time.time()]
    async with running_site(tmp_path, config(github), now=lambda: clock[0]) as url, Browser(url) as browser:
        begun = await browser.get("/sign-in/github")
        back = (await browser.get(f"{begun.location}&login=ann")).location
        clock[0] += 601
        assert (await browser.get(back)).status == 400


async def test_the_identity_is_the_number_and_not_the_login(github: Github, tmp_path: Path) -> None:
    allowed = config(github, 'signup = "list"\nallowed = ["github:1"]')
    async with running_site(tmp_path, allowed) as url:
        async with Browser(url) as browser:
            assert (await browser.sign_in("ann")).status == 303
        github.accounts["ann"] = Account(1, "ann-renamed")
        github.accounts["eve"] = Account(3, "ann")  # takes the login that is free now
        async with Browser(url) as browser:
            refused = await browser.sign_in("eve")
            assert refused.status == 403
            assert "not on the list" in refused.text
            assert (await browser.get("/account")).status == 303
        async with Browser(url) as browser:
            await browser.sign_in("ann")
            assert "ann-renamed" in (await browser.get("/account")).text


@pytest.mark.parametrize(
    ("rule", "admitted"),
    [
        ("", set()),
        ('operators = ["github:1"]\nviewers = ["github:2"]', {"ann", "bob"}),
        ('allowed = ["github:3"]', set()),
        ('signup = "list"\nallowed = ["github:3"]', {"eve"}),
        ('signup = "open"', {"ann", "bob", "eve"}),
    ],
)
async def test_the_rule_decides_who_may_sign_up(github: Github, tmp_path: Path, rule: str, admitted: set[str]) -> None:
    async with running_site(tmp_path, config(github, rule)) as url:
        for login in ("ann", "bob", "eve"):
            async with Browser(url) as browser:
                answer = await browser.sign_in(login)
                assert answer.status == (303 if login in admitted else 403)
                assert any("session=" in cookie for cookie in answer.cookies) is (login in admitted)
    assert len(github.deleted) == 3


async def test_who_has_an_account_keeps_it_when_sign_up_closes(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        await browser.sign_in("ann")
    async with running_site(tmp_path, config(github, "")) as url, Browser(url) as browser:
        assert (await browser.sign_in("ann")).status == 303
        assert (await browser.sign_in("bob")).status == 403


async def test_members_of_an_organisation_may_sign_up(github: Github, tmp_path: Path) -> None:
    github.accounts = {
        "ann": Account(1, "ann", organisations={"acme": "active"}),
        "bob": Account(2, "bob", organisations={"acme": "pending"}),
        "eve": Account(3, "eve", organisations={"acme": "restricted"}),
    }
    async with running_site(tmp_path, config(github, 'signup = "list"\norganisations = ["acme"]')) as url:
        answers = {}
        for login in github.accounts:
            async with Browser(url) as browser:
                answers[login] = await browser.sign_in(login)
    assert {login: answer.status for login, answer in answers.items()} == {"ann": 303, "bob": 403, "eve": 403}
    assert "Whether you belong to acme was not visible" in answers["eve"].text
    assert {query["scope"] for query in github.authorized} == {"read:org"}


@pytest.mark.parametrize("fault", ["500", "html", "no id", "revoked"])
async def test_a_profile_that_cannot_be_read_signs_nobody_in(github: Github, tmp_path: Path, fault: str) -> None:
    github.user_fault = fault
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        answer = await browser.sign_in("ann")
        assert answer.status == 503
        assert "session=" not in "".join(answer.cookies)
        assert (await browser.get("/account")).status == 303
    assert len(github.deleted) == 1


async def test_a_session_ends_when_its_person_leaves_the_list(github: Github, tmp_path: Path) -> None:
    both = config(github, 'signup = "list"\nallowed = ["github:1", "github:2"]')
    async with running_site(tmp_path, both) as url, Browser(url) as ann, Browser(url) as bob:
        for browser, login in ((ann, "ann"), (bob, "bob")):
            await browser.sign_in(login)
        cookies = ann.cookie(), bob.cookie()
    one = config(github, 'signup = "list"\nallowed = ["github:2"]')
    async with running_site(tmp_path, one) as url, Browser(url) as browser:
        assert [(await browser.get("/account", Cookie=f"session={cookie}")).status for cookie in cookies] == [303, 200]


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"access_token": "t", "expires_in": 1e999}'])
async def test_a_token_response_that_is_garbage_signs_nobody_in(
    github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    async def send(*_call: object, **_more: object) -> tuple[int, bytes]:
        return 200, body

    monkeypatch.setattr(OAuthClient, "send", send)
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        answer = await browser.sign_in("ann")
    assert (answer.status, "did not answer as it should" in answer.text) == (503, True)


async def test_a_silent_provider_ends_in_a_clear_page_and_holds_up_nobody_else(
    github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth, "TIMEOUT_S", 0.5)
    github.user_fault = "silence"
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser, Browser(url) as other:
        begun = await browser.get("/sign-in/github")
        back = (await browser.get(f"{begun.location}&login=ann")).location
        waiting = asyncio.create_task(browser.get(back))
        await until(lambda: asyncio.sleep(0, github.exchanged), bool)
        statuses = [(await other.get(path)).status for path in ("/", "/sign-in", "/account")]
        assert statuses == [200, 200, 303]
        answer = await waiting
        assert (answer.status, "session=" in "".join(answer.cookies)) == (503, False)
        assert "GitHub does not answer. Try again in a moment." in answer.text
        github.user_fault = None
        assert (await browser.sign_in("ann")).status == 303
    assert len(github.deleted) == 2  # the token of the first one too


async def test_a_code_that_is_refused_with_status_200_signs_nobody_in(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        begun = await browser.get("/sign-in/github")
        back = (await browser.get(f"{begun.location}&login=ann")).location
        github._codes.clear()
        answer = await browser.get(back)
        assert answer.status == 400
        assert "GitHub did not accept the sign-in" in answer.text


async def test_who_cancels_at_the_provider_reads_so(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        begun = await browser.get("/sign-in/github")
        state = begun.location.split("state=")[1].split("&")[0]
        answer = await browser.get(f"/sign-in/github/callback?error=access_denied&state={state}")
        assert "You did not allow the sign-in" in answer.text


EVIL = ("evil.example", "https://evil.example", "javascript:alert(1)", "/account/keys", "sessions/..", "")
BEFORE = (
    "",
    "/",
    "//",
    "/\\",
    "\\",
    "\t//",
    "/\t/",
    "\r\n",
    "\0",
    "/%2f/",
    "%2F%2F",
    "%5c",
    " //",
    "https:",
    "///",
    "@",
    "\u2215",
)


async def test_a_sign_in_leads_to_a_route_of_ours(github: Github, tmp_path: Path) -> None:
    names = [*EVIL, *(before + "evil.example" for before in BEFORE), "x" * 30_000]
    queries = [f"next={quote(text, safe=safe)}" for safe in ("", "%/:") for text in names][: len(names) + 8]
    proxied = config(github, 'signup = "open"\ntrusted_proxies = ["127.0.0.0/8"]')
    async with running_site(tmp_path, proxied) as url, Browser(url) as browser:
        for number, query in enumerate(
            [*queries, "next=sessions&next=//evil.example", "next=//evil.example&next=sessions"]
        ):
            begun = await browser.get(f"/sign-in/github?{query}", **{"X-Forwarded-For": f"10.{number}.0.1"})
            assert begun.status == 303, query
            answer = await browser.get((await browser.get(f"{begun.location}&login=ann")).location)
            assert answer.location in ("/account", "/account/sessions"), query
            assert "evil" not in (await browser.get(f"/sign-in?{query}")).text
        for path in ("/sign-in", "/sign-in/github"):
            assert (await browser.get(f"{path}?next={'%2f' * 22_000}")).status == 400


async def test_sign_ins_from_one_network_are_bounded(github: Github, tmp_path: Path) -> None:
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser:
        statuses = [(await browser.get("/sign-in/github")).status for _ in range(25)]
    assert statuses == [303] * 20 + [429] * 5


async def test_sign_ins_that_strangers_begin_take_no_room(github: Github, tmp_path: Path) -> None:
    """From however many networks they come: nothing of them is stored, so nobody is locked out."""
    async with running_site(tmp_path, config(github)) as url, Browser(url) as browser, Browser(url) as stranger:
        await browser.sign_in("ann")
        for _ in range(15):
            assert (await stranger.get("/sign-in/github", Cookie="sign-in=" + "|".join(["a:b"] * 400))).status == 303
        with closing(sqlite3.connect(tmp_path / SITE_FILE)) as database:
            assert database.execute("SELECT count(*) FROM sign_ins").fetchone() == (0,)


async def test_without_a_provider_nobody_signs_in_and_pages_are_served(tmp_path: Path) -> None:
    async with running_site(tmp_path) as url, Browser(url) as browser:
        assert (await browser.get("/")).status == 200
        assert (await browser.get("/sign-in")).status == 404
        assert (await browser.get("/sign-in/github")).status == 404
