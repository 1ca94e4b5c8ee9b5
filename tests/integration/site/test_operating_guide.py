"""The guide for operators, followed word by word: its settings, its pages, and what it says happens then."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.kit.github import CLIENT_SECRET, Account, Github, github_config, running_github
from tests.kit.site import Browser, running_site

GUIDE = Path("docs/howto/operate-from-the-site.md").read_text("utf-8")


def settings(heading: str) -> str:
    """The lines of `[site]` below a heading of the guide."""
    block = re.search(rf"### {heading}\n.*?```toml\n\[site\]\n(.*?)```", GUIDE, re.DOTALL)
    assert block is not None, heading
    return block[1]


@pytest.fixture
async def github() -> AsyncIterator[Github]:
    async with running_github(Account(583231, "ann"), Account(9919, "olga"), Account(7, "eve")) as running:
        yield running


async def follow(browser: Browser, page: str, form: str) -> None:
    """Send a form of the guide with a reason."""
    assert f'href="{form}"' in (await browser.get(page)).text
    answer = await browser.post(form, {**(await browser.get(form)).form(form), "reason": "left"})
    assert answer.status == 303, answer.text


async def test_steps_of_the_guide_have_the_effect_they_name(
    github: Github, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(lines: str, *, olga: bool = True) -> str:
        operators = 'operators = ["github:9919"]\n' if olga else ""
        return f"[site]\nport = 0\n{operators}{lines}\n{github_config(github)}"

    async with running_site(tmp_path, config(settings("Allow a person"))) as url, Browser(url) as ann:
        assert (await ann.sign_in("ann")).status == 303
        async with Browser(url) as eve:
            assert (await eve.sign_in("eve")).status == 403
        assert (await ann.get("/operator")).status == 403
        session = {"Cookie": f"session={ann.cookie()}"}
    async with running_site(tmp_path, config(settings("Make an operator"), olga=False)) as url, Browser(url) as ann:
        assert (await ann.get("/operator", **session)).status == 200  # her session went on
        async with Browser(url) as olga:
            assert (await olga.sign_in("olga")).status == 303
    secret = tmp_path / "github-secret"
    secret.write_text("the second secret\n")
    github.client_secrets.add("the second secret")
    monkeypatch.delenv("GITHUB_CLIENT_SECRET")
    monkeypatch.setenv("GITHUB_CLIENT_SECRET_FILE", str(secret))
    async with running_site(tmp_path, config(settings("Close sign-up"))) as url, Browser(url) as olga:
        async with Browser(url) as ann, Browser(url) as eve:
            assert (await ann.get("/operator", **session)).status == 403  # a user again
            assert (await eve.sign_in("eve")).status == 403
            assert (await ann.sign_in("ann")).status == 303
            await olga.sign_in("olga")
            await follow(olga, "/operator/people", "/operator/people/github=3A583231/end-sessions")
            assert (await ann.get("/account")).status == 303
            assert (await ann.sign_in("ann")).status == 303
            await follow(olga, "/operator/people", "/operator/people/github=3A583231/block")
            assert (await ann.get("/account")).status == 303
            assert (await ann.sign_in("ann")).status == 403
        github.client_secrets.discard(CLIENT_SECRET)
        assert (await olga.sign_in("olga")).status == 303
        github.client_secrets.clear()
        refused = await olga.sign_in("olga")
        assert (refused.status, "GitHub does not accept this site. Tell the operator." in refused.text) == (503, True)
    assert github.exchanged[-1]["client_secret"] == "the second secret"
