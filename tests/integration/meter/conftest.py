"""A ledger's database that has its schema already."""

from collections.abc import Iterator

import pytest

from services.meter.adapters.schema import MIGRATIONS, VERSION_TABLE
from tests.kit.migrated import migrated_url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of each kind in turn."""
    with migrated_url(request, MIGRATIONS, VERSION_TABLE) as url:
        yield url
