"""A database of the books that has its schema already."""

from collections.abc import Iterator

import pytest

from services.billing.adapters.schema import MIGRATIONS, VERSION_TABLE
from tests.kit.migrated import migrated_url


@pytest.fixture(params=["sqlite", "postgresql"])
def books_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of each kind in turn."""
    with migrated_url(request, MIGRATIONS, VERSION_TABLE) as url:
        yield url
