"""What the tests of the outbox share."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def no_sync() -> Iterator[None]:
    """No power fails here: a sync would cost these tests milliseconds, some thousand times."""
    with pytest.MonkeyPatch.context() as patches:
        for name in ("fdatasync", "fsync"):
            patches.setattr(os, name, lambda _descriptor: None)
        yield
