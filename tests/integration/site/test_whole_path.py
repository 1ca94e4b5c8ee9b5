"""The whole way of a person on a running suite: refused, admitted, a key, a request, its usage, and the end of each."""

import re
import time
from pathlib import Path

import openai
import pytest

from tests.integration.suite.config import config
from tests.kit.engine import engine_command
from tests.kit.github import Account, github_config, running_github
from tests.kit.site import Browser
from tests.kit.up import up
from tests.kit.waiting import until

NEW = "/account/keys/new"


@pytest.mark.long
async def test_from_a_closed_sign_up_to_a_revoked_key(tmp_path: Path, tiny_model: Path) -> None:
    async with running_github(Account(1, "ann")) as github:
        closed = config(engine_command(tiny_model)) + f"[site]\nport = 0\n{github_config(github)}"
        async with up(tmp_path, closed) as suite:
            url = suite.services["site"]["url"]
            async with Browser(url) as browser:
                refused = await browser.sign_in("ann")
                assert (refused.status, "Sign-up is closed" in refused.text) == (403, True)

            suite.config.write_text(closed.replace("[site]", '[site]\nsignup = "list"\nallowed = ["github:1"]'))
            await suite.kill9("site")
            async with Browser(url) as browser, Browser(url) as elsewhere:
                assert (await browser.sign_in("ann", "keys")).location == "/account/keys"
                await elsewhere.sign_in("ann")
                made = await browser.post(NEW, {**(await browser.get(NEW)).form(NEW), "name": "ci", "lifetime": "30"})
                (secret,) = re.findall(r"sk-[A-Za-z0-9_-]{43}", made.text)
                page = re.findall(r'href="(/account/keys/[0-9a-f-]{36})"', made.text)[0]

                async with openai.AsyncOpenAI(base_url=suite.base_url, api_key=secret, max_retries=0) as sdk:
                    stream = await sdk.chat.completions.create(
                        model="tiny",
                        messages=[{"role": "user", "content": "hi"}],
                        max_tokens=8,
                        stream=True,
                        stream_options={"include_usage": True},
                    )
                    usage = [chunk.usage async for chunk in stream if chunk.usage is not None][-1]

                    row = f"<td>1</td><td>{usage.prompt_tokens}</td>"
                    await until(lambda: browser.get("/account/usage"), lambda answer: row in answer.text)
                    assert (
                        f"tiny,ci,{page.rpartition('/')[2]},1,{usage.prompt_tokens},"
                        in (await browser.get("/account/usage.csv")).text
                    )
                    assert (await browser.get("/account/keys")).text.count("<small>20") >= 3

                    form = {**(await browser.get(page)).form(f"{page}/revoke"), "sure": "yes"}
                    assert (await browser.post(f"{page}/revoke", form)).status == 303
                    revoked_at = time.monotonic()

                    async def models() -> int:
                        try:
                            await sdk.models.list()
                        except openai.AuthenticationError as error:
                            return error.status_code
                        return 200

                    await until(models, lambda status: status == 401)
                    assert time.monotonic() - revoked_at < 1.0

                end = "/account/sessions/end-others"
                await browser.post(end, (await browser.get("/account/sessions")).form(end))
                old = await elsewhere.get("/account/keys")
                assert (old.status, old.location) == (303, "/sign-in?next=keys")
                account = (await browser.get("/account")).text
                for deed in ("signed up", "key created", "key revoked", "other sessions ended"):
                    assert deed in account
