"""Publishes the counts of responses every 5 s, and keeps them on disk while the bus is away.

Each message has the whole hour so far, so a repeated one changes nothing. A process that is killed loses what it
counted since the last report.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import structlog

from services.gateway.core.response_counts import ResponseCounts
from shared.bus.ports import Bus
from shared.bus.subjects import responses_key
from shared.bus.topology import RESPONSES
from shared.errors import BusError
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.responses import HourResponses

INTERVAL_SECONDS = 5.0
"""How much is lost at most when the process is killed."""
SUFFIX = ".responses"

log = structlog.get_logger()


@dataclass(slots=True)
class ResponseReporter:
    """Runs one task, `run`. Only that task and `drain` call `report`."""

    bus: Bus
    counts: ResponseCounts
    folder: Path
    """Where what could not be published is kept."""
    _fault: str | None = None
    _left: list[Path] = field(default_factory=list)
    """Files of earlier boots."""

    def __post_init__(self) -> None:
        self._left = files_in(self.folder)

    async def run(self) -> None:
        while True:
            await self.report()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Publish once more; what cannot be published stays on disk for the next boot."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.report()
                return
        self._keep_all()

    async def report(self) -> None:
        """Publish what has changed."""
        try:
            if self._left:
                await send_files(self.bus, self._left)
                self._left = []
            for message in list(self.counts.unpublished()):
                if self._path(message).exists():
                    self._keep(message)  # so that no later boot publishes less than the bus has by then
                await _publish(self.bus, message)
                self.counts.on_published(message)
                self._path(message).unlink(missing_ok=True)
            self._fault = None
        except (BusError, OSError) as error:
            if self._fault is None:
                log.warning("responses_delayed", reason=str(error))
            self._fault = str(error)
            self._keep_all()
        self.counts.forget_old()

    def _keep_all(self) -> None:
        try:
            for message in self.counts.unpublished():
                self._keep(message)
        except OSError as error:
            log.warning("responses_not_kept", folder=str(self.folder), reason=str(error))

    def _keep(self, message: HourResponses) -> None:
        path = self._path(message)
        new = path.with_suffix(".new")
        new.write_bytes(encode(message))
        new.replace(path)

    def _path(self, message: HourResponses) -> Path:
        return self.folder / (sha256(_key(message).encode()).hexdigest()[:32] + SUFFIX)


def files_in(folder: Path) -> list[Path]:
    """Return the files that a gateway left behind."""
    return sorted(folder.glob(f"*{SUFFIX}"))


async def send_files(bus: Bus, files: list[Path]) -> int:
    """Publish files that a gateway left behind, and delete them. Return how many responses they count.

    Raises:
        BusError: the bus does not take one; those before it are done.
        OSError: one cannot be read or deleted.
    """
    responses = 0
    for path in files:
        with suppress(FileNotFoundError):
            try:
                message = decode(path.read_bytes(), HourResponses)
                await _publish(bus, message)
                responses += sum(count.responses for count in message.counts)
            except Unreadable as error:
                log.error("responses_unreadable", file=str(path), reason=str(error))
            path.unlink()
    return responses


async def _publish(bus: Bus, message: HourResponses) -> None:
    await bus.put(RESPONSES, _key(message), encode(message))


def _key(message: HourResponses) -> str:
    return responses_key(message.source, message.hour)
