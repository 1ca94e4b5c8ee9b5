"""A ledger's database that has its schema already: migrated once per worker, and copied for each test."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.meter.adapters.schema import MIGRATIONS, VERSION_TABLE
from shared import database
from tests.kit.postgres import database_on


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    _migrate(f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_database(postgres_cluster: str) -> Iterator[str]:
    """Its name."""
    with database_on(postgres_cluster) as url:
        _migrate(url)
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of each kind in turn, as the newest migration leaves it."""
    if request.param == "sqlite":
        path = shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "test.sqlite")
        yield f"sqlite+aiosqlite:///{path}"
        return
    template = request.getfixturevalue("migrated_database")
    with database_on(request.getfixturevalue("postgres_cluster"), template) as url:
        yield url


def _migrate(url: str) -> None:
    asyncio.run(database.migrate(url, MIGRATIONS, version_table=VERSION_TABLE))
