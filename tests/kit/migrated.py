"""Databases that have a service's schema already: migrated once per worker, and copied for each test."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared import database
from tests.kit.postgres import database_on


@contextmanager
def migrated_url(request: pytest.FixtureRequest, scripts: Path, version_table: str) -> Iterator[str]:
    """A database of the kind `request.param`, as the newest migration leaves it."""
    if request.param == "sqlite":
        template = request.getfixturevalue("sqlite_templates")(scripts, version_table)
        yield f"sqlite+aiosqlite:///{shutil.copy(template, request.getfixturevalue('tmp_path') / 'test.sqlite')}"
        return
    template = request.getfixturevalue("postgres_templates")(scripts, version_table)
    with database_on(request.getfixturevalue("postgres_cluster"), template) as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], Path]:
    """Returns a file with the schema of these scripts."""

    @cache
    def template(scripts: Path, version_table: str) -> Path:
        path = tmp_path_factory.mktemp("template") / "template.sqlite"
        asyncio.run(database.migrate(f"sqlite+aiosqlite:///{path}", scripts, version_table=version_table))
        return path

    return template


@pytest.fixture(scope="session")
def postgres_templates(postgres_cluster: str) -> Iterator[Callable[[Path, str], str]]:
    """Returns the name of a database with the schema of these scripts."""
    with ExitStack() as databases:

        @cache
        def template(scripts: Path, version_table: str) -> str:
            url = databases.enter_context(database_on(postgres_cluster))
            asyncio.run(database.migrate(url, scripts, version_table=version_table))
            return urlsplit(url).path.removeprefix("/")

        yield template
