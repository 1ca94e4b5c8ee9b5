"""What the waker writes into its journal, shown as it comes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from shared.bus.ports import Received
from shared.messages.budget import Journalled
from shared.messages.waker import MachineState, ProviderCall, Transition
from spotinference.demo.suite import WAIT_SECONDS, DemoFailed, Stage, Suite
from spotinference.journal.follower import ALL_SUBJECTS, decode_entries, follow_journal


class Messages:
    """The journal so far. A line that comes while an answer is being printed is shown after it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._transitions: list[Transition] = []
        self._news = asyncio.Event()
        self._last_line = ""
        self._held: list[str] | None = None

    def tell(self, found: Iterable[Received], limit: int | None = None) -> None:
        """Take entries as `journal --follow` does."""
        del limit
        for entry in decode_entries(found):
            if isinstance(entry, Transition):
                self._transitions.append(entry)
                self._news.set()
            line = describe(entry)
            if line and line != self._last_line:  # a probe is repeated until it is answered
                self._last_line = line
                self._say(line)

    def _say(self, line: str) -> None:
        if self._held is None:
            self._stage.print(line)
        else:
            self._held.append(line)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            for line in held:
                self._say(line)

    async def reached_sleep(self) -> None:
        """Return once the machine, which was ready, is asleep again; `DemoFailed` if it is not in time."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._until(lambda: "ready" in self._states() and self._states()[-1] == "asleep")
        except TimeoutError:
            raise DemoFailed(f"the machine did not fall asleep: {self.last_reason()}") from None

    async def wake_failed(self) -> None:
        """Return once a wake has ended in anything but a machine that is ready."""
        await self._until(lambda: any(t.from_state == "waking" and t.to_state != "ready" for t in self._transitions))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    def _states(self) -> list[MachineState]:
        return [entry.to_state for entry in self._transitions]

    def last_reason(self) -> str:
        return self._transitions[-1].reason if self._transitions else "the waker has said nothing"


def describe(entry: Journalled) -> str:
    """One line for a person; empty for what goes well and is no change of state."""
    if isinstance(entry, Transition):
        return f"journal  {entry.from_state or 'first sight'} → {entry.to_state}: {entry.reason}"
    if isinstance(entry, ProviderCall) and entry.outcome != "accepted":
        return f"journal  {entry.call}: {entry.outcome} {entry.code}".rstrip()
    return ""


@asynccontextmanager
async def following(suite: Suite, stage: Stage) -> AsyncIterator[Messages]:
    messages = Messages(stage)
    task = asyncio.create_task(
        suite.run_with_bus(lambda bus: follow_journal(bus, ALL_SUBJECTS, messages.tell, None)), name="journal"
    )
    try:
        yield messages
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
