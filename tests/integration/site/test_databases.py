"""Sign-in, sessions and audit on each database that the site may have.

On PostgreSQL in the way of the Kubernetes guide: another role has migrated it for all services, and the site's may do
what the guide's statements grant.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import web
from sqlalchemy import Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.billing.adapters import schema as books
from services.meter.adapters import schema as ledger
from services.site import wiring
from services.site.adapters import schema as site
from services.site.adapters.http import server
from services.site.adapters.pruner import Pruner
from services.site.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.site.adapters.tables import sent_forms, sessions, site_audit
from shared import database
from shared.errors import Misconfigured
from shared.ids import uuid7
from shared.units import DAY_S
from tests.kit.github import Account, github_config, running_github
from tests.kit.postgres import database_on
from tests.kit.site import CONFIG, Browser, running_site
from tests.kit.site_role import SiteRole, site_role
from tests.kit.waiting import until

SIGN_IN = Path("docs/howto/sign-in.md").read_text("utf-8")
GUIDE = Path("docs/howto/back-up-and-restore.md").read_text("utf-8")


@dataclass(frozen=True)
class Granted:
    template: str
    role: SiteRole
    tables: set[str]
    """What the site's own migrations make."""


@pytest.fixture(scope="module")
def granted(postgres_cluster: str) -> Iterator[Granted]:
    """A database that is migrated for all services, and the role that the site uses it as."""
    with database_on(postgres_cluster) as url, site_role(url) as role:
        made: list[set[str]] = []
        for each in (ledger, books, site):
            asyncio.run(database.migrate(url, each.MIGRATIONS, version_table=each.VERSION_TABLE))
            with psycopg.connect(url.replace("+asyncpg", "")) as owner:
                rows = owner.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            made.append({str(name) for (name,) in rows}.difference(*made))
        role.grant()
        yield Granted(url.rpartition("/")[2], role, made[-1])


@pytest.fixture
def site_url(granted: Granted, postgres_cluster: str) -> Iterator[str]:
    """A copy of that database, as the site's URL names it."""
    with database_on(postgres_cluster, granted.template) as url:
        yield granted.role.at(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'test.sqlite'}"
    url: str = request.getfixturevalue("site_url")
    return url


def test_the_role_of_the_guide_may_use_the_tables_of_the_site_and_nothing_else(site_url: str, granted: Granted) -> None:
    rights = """
        SELECT relname, string_agg(lower(right_), ' ' ORDER BY right_) FROM pg_class,
        unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) right_
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'm', 'p') AND
        has_table_privilege(oid, right_) GROUP BY relname
    """
    with psycopg.connect(site_url.replace("+asyncpg", ""), autocommit=True) as connection:
        allowed: dict[str, str] = dict(connection.execute(rights).fetchall())
        every = dict.fromkeys(granted.tables, "delete insert select update")
        assert allowed == {**every, VERSION_TABLE: "select update"}, "the statements of the guide, and what it has"
        for statement in (
            f"SELECT * FROM {ledger.VERSION_TABLE}",
            f"UPDATE {books.VERSION_TABLE} SET version_num = ''",
            "SELECT * FROM events",
            "DELETE FROM revisions",
            "CREATE TABLE more ()",
            "ALTER TABLE people ADD COLUMN more text",
            "DROP TABLE people",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


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


async def test_no_address_is_a_fault_of_the_database(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands in the path or the query of a page: it is not there, or cannot be read."""
    table: list[web.RouteDef] = []
    serve = server.serve_site

    def keep(routes: list[web.RouteDef], *more: Any, **settings: Any) -> AbstractAsyncContextManager[int]:
        table.extend(routes)
        return serve(routes, *more, **settings)

    monkeypatch.setattr(wiring, "serve_site", keep)
    faults = list[str]()
    async with running_github(Account(1, "ann")) as github:
        roles = f'signup = "open"\noperators = ["github:1"]\n{github_config(github)}'
        text = f'[database]\nurl = "{database_url}"\n[site]\nport = 0\n{roles}'
        async with running_site(tmp_path, text) as url, Browser(url) as browser:
            await browser.sign_in("ann")
            paths = [route.path for route in table if route.method == "GET" and not route.path.endswith("/events")]
            for odd in ("%00", "=00", "%ED%A0%80", "%FF", "%E2%80%AE%0A", "9" * 30, "0000-00-00", "%27;--"):
                query = "&".join(
                    f"{name}={odd}" for name in ("before", "search", "sort", "day", "page", "next", "state")
                )
                for path in paths:
                    answer = await browser.get(f"{re.sub(r'[{][^}]*[}]', odd, path)}?{query}")
                    if answer.status >= 500:
                        faults.append(f"{path} with {odd}: {answer.status}")
    assert len(paths) > 20
    assert faults == []


async def test_another_issuer_does_not_inherit_accounts(tmp_path: Path, database_url: str) -> None:
    async with running_github(Account(1, "ann")) as github, running_github(Account(1, "eve")) as other:
        texts = [
            f'[database]\nurl = "{database_url}"\n[site]\nport = 0\nsignup = "open"\n{github_config(each)}'
            for each in (github, other)
        ]
        async with running_site(tmp_path, texts[1]):
            pass  # without accounts the issuer may change
        async with running_site(tmp_path, texts[0]) as url, Browser(url) as browser:
            await browser.sign_in("ann")
        with pytest.raises(Misconfigured, match=r"^site.github.web_url is .*: set it back"):
            async with running_site(tmp_path, texts[1]):
                pass
        (same, others) = re.findall(r"```sql\n(.*?)```", SIGN_IN, re.DOTALL)
        await execute(database_url, same.replace("https://new.example", other.url).replace("oidc", "github"))
        async with running_site(tmp_path, texts[1]) as url, Browser(url) as browser:
            assert "signed up" not in (await browser.sign_in("eve")).text
            assert "signed up" in (await browser.get("/account")).text  # by ann
        await execute(database_url, others.replace("oidc", "github"))
        async with running_site(tmp_path, texts[0]) as url, Browser(url) as browser:
            assert (await browser.sign_in("ann")).status == 303


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
    await execute(url, statements)


async def execute(url: str, statements: str) -> None:
    engine = database.create_engine(url)
    async with engine.begin() as connection:
        for statement in filter(str.strip, statements.split(";")):
            await connection.exec_driver_sql(statement)
    await engine.dispose()
