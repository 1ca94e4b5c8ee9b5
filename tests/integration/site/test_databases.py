"""Sign-in, sessions and audit on each database that the site may have."""

import re
from pathlib import Path

from shared import database
from tests.kit.github import Account, github_config, running_github
from tests.kit.site import Browser, running_site

GUIDE = Path("docs/howto/back-up-and-restore.md").read_text("utf-8")


async def test_the_same_on_both_databases(tmp_path: Path, database_url: str) -> None:
    async with running_github(Account(1, "ann")) as github:
        config = f'[database]\nurl = "{database_url}"\n[site]\nport = 0\nsignup = "open"\n{github_config(github)}'
        async with running_site(tmp_path, config) as url, Browser(url) as first, Browser(url) as second:
            assert (await first.sign_in("ann")).status == 303
            assert (await second.sign_in("ann")).status == 303
            page = await second.get("/account/sessions")
            action = re.findall(r'action="(/account/sessions/[0-9a-f-]+/end)"', page.text)[-1]
            assert (await second.post(action, page.form(action))).status == 303
            assert (await first.get("/account")).status == 303
            page = await second.get("/account/keys/new")
            form = {**page.form("/account/keys/new"), "name": "ci", "lifetime": "30"}
            statuses = [(await second.post("/account/keys/new", form)).status for _ in range(2)]
            assert statuses == [200, 409]
            account = (await second.get("/account")).text
            await close_accounts_by_hand(database_url)
            assert (await second.get("/account")).status == 303
            assert "blocked" in (await second.sign_in("ann")).text
    for action in ("signed up", "signed in", "session ended", "key created"):
        assert action in account


async def close_accounts_by_hand(url: str) -> None:
    """As the guide says for a database that its own tools restored."""
    (statements,) = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)
    engine = database.create_engine(url)
    async with engine.begin() as connection:
        for statement in filter(str.strip, statements.split(";")):
            await connection.exec_driver_sql(statement)
    await engine.dispose()
