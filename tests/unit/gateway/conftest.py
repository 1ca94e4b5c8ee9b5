"""What these tests share."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from structlog.testing import capture_logs

from tests.unit.gateway.front import Front


@pytest.fixture(autouse=True, scope="package")
def no_sync() -> Iterator[None]:
    """No power fails here: a sync would cost these tests milliseconds, some thousand times."""
    with pytest.MonkeyPatch.context() as patches:
        for name in ("fdatasync", "fsync"):
            patches.setattr(os, name, lambda _descriptor: None)
        yield


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """The front with two machines that are ready."""
    front = await Front().start()
    front.fleet.put("s1", "ready")
    front.fleet.put("s2", "ready")
    with capture_logs():  # a traceback takes longer to print than all the rest
        yield front
    await front.stop()
