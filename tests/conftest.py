"""The fixtures that every test may use, each from its module in `tests/kit`."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# Collecting the tests makes many objects and hardly any garbage: looking for some took a third of its time.
gc.disable()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Run in a shell's background: what the tests start would ignore Ctrl-C like us.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast this machine is proves nothing.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

pytest_plugins = [
    "tests.kit.compiled",
    "tests.kit.engine",
    "tests.kit.nats_server",
    "tests.kit.postgres",
    "tests.kit.migrated",  # after the one that it imports
    "tests.kit.previous_release",
    "tests.kit.scripted_engine",
]


def pytest_collection_finish() -> None:
    """Look for garbage again, but not among what was collected, which stays."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    """A command that a test runs in this process sets up logging and umask for good: not so for the next test."""
    umask = os.umask(0o022)
    os.umask(umask)
    yield
    os.umask(umask)
    structlog.reset_defaults()
