"""The fixtures that every test may use, each from its module in `tests/kit`."""

import gc
import os
import signal
from collections.abc import Generator, Iterator

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

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

pytest_plugins = [
    "tests.kit.compiled",
    "tests.kit.engine",
    "tests.kit.nats_server",
    "tests.kit.postgres",
    "tests.kit.migrated",  # after the one that it imports
    "tests.kit.previous_release",
    "tests.kit.scripted_engine",
]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each worker begin somewhere else, so that in a fresh clone each reads what the others have compiled."""
    report = yield
    if isinstance(collector, pytest.Directory) and report.result:
        start = len(report.result) * WORKER // WORKERS
        report.result = [*report.result[start:], *report.result[:start]]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what was collected into the order that all workers have."""
    items.sort(key=lambda item: item.path)


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
