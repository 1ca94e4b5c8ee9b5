"""Prints the waker's journal entries as they arrive, and waits for them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from shared.bus.ports import Received
from shared.messages.budget import Journalled
from shared.messages.waker import MachineState, ProviderCall, Transition
from spotinference.demo.suite import WAIT_SECONDS, DemoFailed, StepPrinter, Suite
from spotinference.journal.follower import ALL_SUBJECTS, decode_entries, follow_journal


class JournalPrinter:
    """The journal so far. While an answer is being printed, lines are held back and printed after it."""

    def __init__(self, printer: StepPrinter) -> None:
        self._printer = printer
        self._transitions: list[Transition] = []
        self._changed = asyncio.Event()
        self._last_line: str | None = None
        self._held: list[str] | None = None

    def print_entries(self, messages: Iterable[Received], limit: int | None = None) -> None:
        """Print the entries of a kind that the demo shows. Called by `follow_journal`."""
        del limit
        for entry in decode_entries(messages):
            if isinstance(entry, Transition):
                self._transitions.append(entry)
                self._changed.set()
            line = describe(entry)
            if line is not None and line != self._last_line:  # a probe is repeated until it succeeds
                self._last_line = line
                self._print(line)

    def _print(self, line: str) -> None:
        if self._held is None:
            self._printer.print(line)
        else:
            self._held.append(line)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._held = []
        try:
            yield
        finally:
            paused, self._held = self._held, None
            for line in paused:
                self._print(line)

    async def wait_until_asleep(self) -> None:
        """Return once the machine, which was ready, is asleep again. Raises `DemoFailed` after a timeout."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._until(lambda: "ready" in self._states() and self._states()[-1] == "asleep")
        except TimeoutError:
            raise DemoFailed(f"the machine did not fall asleep: {self.last_reason()}") from None

    async def wait_until_wake_fails(self) -> None:
        """Return once a wake has ended without a ready machine."""
        await self._until(lambda: any(t.from_state == "waking" and t.to_state != "ready" for t in self._transitions))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _states(self) -> list[MachineState]:
        return [entry.to_state for entry in self._transitions]

    def last_reason(self) -> str:
        return self._transitions[-1].reason if self._transitions else "the waker has written nothing"


def describe(entry: Journalled) -> str | None:
    """Return one line of text; None for a success that changes no state."""
    if isinstance(entry, Transition):
        return f"journal  {entry.from_state or 'new'} → {entry.to_state}: {entry.reason}"
    if isinstance(entry, ProviderCall) and entry.outcome != "accepted":
        return f"journal  {entry.call}: {entry.outcome} {entry.code}".rstrip()
    return None


@asynccontextmanager
async def follow(suite: Suite, printer: StepPrinter) -> AsyncIterator[JournalPrinter]:
    journal = JournalPrinter(printer)
    task = asyncio.create_task(
        suite.run_with_bus(lambda bus: follow_journal(bus, ALL_SUBJECTS, journal.print_entries, None)), name="journal"
    )
    try:
        yield journal
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
