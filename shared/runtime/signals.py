"""Learns that the process has to end: by a signal, or because its parent has gone."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from shared.runtime.child import LIFELINE_VARIABLE

CANCEL_AGAIN_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(eq=False)
class End:
    """Whether the process has to end, and whether it starts again then."""

    requested: asyncio.Event = field(default_factory=asyncio.Event)
    starts_again: bool = False

    def stop(self) -> None:
        self.starts_again = False
        self.requested.set()

    def start_again(self) -> None:
        if not self.requested.is_set():
            self.starts_again = True
            self.requested.set()


def stop_on_signals(stop: Callable[[], None], on_parent_lost: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM and SIGINT, and `on_parent_lost` when the parent process has ended."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    _watch_lifeline(on_parent_lost)


@asynccontextmanager
async def cancel_when(ended: asyncio.Event) -> AsyncIterator[None]:
    """Cancel the body once the process has to end: a waiting start must not outlive its parent."""
    start = asyncio.current_task()
    assert start is not None, "a coroutine runs in a task"

    async def cancel() -> None:
        await ended.wait()
        while True:  # before Python 3.12 `asyncio.wait_for` may lose one cancellation
            start.cancel()
            await asyncio.sleep(CANCEL_AGAIN_SECONDS)

    canceller = asyncio.create_task(cancel())
    try:
        yield
    finally:
        canceller.cancel()


def _watch_lifeline(on_parent_lost: Callable[[], None]) -> None:
    number = os.environ.get(LIFELINE_VARIABLE)
    if number is None:
        return
    descriptor = int(number)
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        loop.remove_reader(descriptor)
        log.warning("parent_process_lost")
        on_parent_lost()

    loop.add_reader(descriptor, on_readable)
