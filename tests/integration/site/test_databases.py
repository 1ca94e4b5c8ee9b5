"""Sign-in, sessions and audit on each database that the site may have."""

import re
import time
from pathlib import Path

import pytest
from sqlalchemy import Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.site.adapters.pruner import Pruner
from services.site.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.site.adapters.tables import sent_forms, sessions, site_audit
from shared import database
from shared.ids import uuid7
from shared.units import DAY_S
from tests.kit.github import Account, github_config, running_github
from tests.kit.site import CONFIG, Browser, running_site
from tests.kit.waiting import until

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
            await end_sessions_by_hand(database_url)
            assert (await second.get("/account")).status == 303
            assert (await second.sign_in("ann")).status == 303
    for action in ("signed up", "signed in", "session ended", "key created"):
        assert action in account


async def test_old_rows_go_in_steps_by_one_replica_and_the_newer_stay(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    step = Pruner.step

    async def note(self: Pruner, now: float) -> int:
        steps.append(await step(self, now))
        return steps[-1]

    monkeypatch.setattr(Pruner, "step", note)
    config, now = f'[database]\nurl = "{database_url}"\n{CONFIG}', time.time()
    async with database.migrated_engine(database_url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        ages = [*(400.0 + n / 1000 for n in range(1, 1201)), 399.9, 0.0]
        await fill(engine, now, ages)
        async with running_site(tmp_path / "a", config), running_site(tmp_path / "b", config):
            await until(lambda: count(engine), lambda rows: rows == (2, 1, 1))
        assert [*sorted(filter(None, steps), reverse=True)][:3] == [500, 500, 200]
        assert sum(steps) == 1202


async def fill(engine: AsyncEngine, now: float, ages: list[float]) -> None:
    """Rows of the audit of these ages in days; a session and a form of long ago, and one of each of today."""
    text = dict.fromkeys(("person", "login", "action", "object", "detail", "network", "user_agent"), "x")
    deeds = [{**text, "id": uuid7(now - age * DAY_S), "at": now - age * DAY_S} for age in ages]
    ends = {"old": now - 31 * DAY_S, "new": now}
    async with engine.begin() as connection:
        await connection.execute(
            insert(site_audit), [{name: deed[name] for name in names(site_audit)} for deed in deeds]
        )
        await connection.execute(insert(sent_forms), [{"sha256": name, "sent_at": at} for name, at in ends.items()])
        for name, at in ends.items():
            moments = dict.fromkeys(("created_at", "seen_at", "ends_at"), at)
            row = {**text, **moments, "id": name, "sha256": name, "ended_at": at, "ended_why": "x"}
            await connection.execute(insert(sessions), [{name: row[name] for name in names(sessions)}])


def names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


async def count(engine: AsyncEngine) -> tuple[int, ...]:
    async with database.read_transaction(engine) as connection:
        counts = [
            await connection.scalar(select(func.count()).select_from(table))
            for table in (site_audit, sessions, sent_forms)
        ]
    return tuple(int(number or 0) for number in counts)


async def end_sessions_by_hand(url: str) -> None:
    """As the guide says for a database that its own tools restored."""
    (statements,) = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)
    engine = database.create_engine(url)
    async with engine.begin() as connection:
        for statement in filter(str.strip, statements.split(";")):
            await connection.exec_driver_sql(statement)
    await engine.dispose()
