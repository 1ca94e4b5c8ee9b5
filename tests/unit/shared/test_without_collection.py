"""Imports without collections: off meanwhile, then as before."""

import gc
from collections.abc import Iterator
from contextlib import suppress

import pytest

from shared.without_collection import without_collection


@pytest.fixture(autouse=True)
def _collecting() -> Iterator[None]:
    yield
    gc.enable()


def test_the_collector_is_off_meanwhile_and_on_again_even_after_a_failure() -> None:
    with suppress(ImportError), without_collection():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with without_collection():
        assert not gc.isenabled()
    assert not gc.isenabled()
