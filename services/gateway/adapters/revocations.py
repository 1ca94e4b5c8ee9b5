"""Remembers which API keys were revoked, in a file: a bus that comes back from an older state revives none of them."""

import asyncio
from pathlib import Path

import msgspec
import structlog

from services.gateway.metrics import Metrics
from shared.bus.subjects import SHOWN
from shared.bus.topology import KEYS
from shared.bus.view import View
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.keys import KeyRecord
from shared.runtime.health import Health
from shared.runtime.suite_file import write_private

MOST_REMEMBERED = 100_000
"""Keys; the one that was revoked the longest ago is forgotten first. The file has some 4 MB then."""
RETRY_SECONDS = 5.0

log = structlog.get_logger()


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """The file: the ids of revoked keys, oldest first."""

    key_ids: tuple[str, ...]


class Revocations:
    """The view `keys`, without the keys that were revoked; `run` saves what it learned.

    One process of a data directory writes the file.
    """

    def __init__(self, data_dir: Path, *, is_writer: bool) -> None:
        self.keys = View(KEYS, KeyRecord, check=self.check)
        self._file = data_dir / "gateway" / "revoked.json"
        self._is_writer = is_writer
        self._seen = dict.fromkeys(self._read())
        self._unsaved = asyncio.Event()

    @property
    def count(self) -> int:
        """How many revoked keys are remembered."""
        return len(self._seen)

    def check(self, _digest: str, record: KeyRecord) -> None:
        """Remember a revoked key. Raises `Unreadable` for one that is remembered and no longer shown as revoked."""
        if record.revoked_at is None:
            if record.id in self._seen:
                raise Unreadable(
                    f"key {record.id[:SHOWN]} was revoked: the bus is in an older state: run `spotinference setup`"
                )
        elif record.id not in self._seen:
            self._seen[record.id] = None
            while len(self._seen) > MOST_REMEMBERED:
                del self._seen[next(iter(self._seen))]
            self._unsaved.set()

    @property
    def missing(self) -> int:
        """How many remembered keys the bus no longer shows as revoked."""
        return len(self._seen.keys() - {record.id for record in self.keys.values() if record.revoked_at is not None})

    @property
    def fault(self) -> str | None:
        """What an operator has to do about the bus, if anything."""
        if not (missing := self.missing):
            return None
        return (
            f"the bus shows {self.count - missing} revoked keys and this gateway knows {self.count}: it came back from "
            "an older state, or was lost. The revoked keys stay refused here: run `spotinference setup`"
        )

    def report(self, metrics: Metrics, health: Health) -> None:
        """Add the gauges and the alarm."""
        metrics.add_gauge("revocations", "Revoked API keys that are remembered.", lambda: self.count)
        metrics.add_gauge(
            "revocations_missing",
            "Remembered revoked API keys that the bus does not show as revoked.",
            lambda: self.missing,
        )
        health.add_alarm("keys", lambda: self.fault)

    async def run(self) -> None:
        """Save each change, for ever. A full disk delays that."""
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            data = encode(Remembered(key_ids=tuple(self._seen)))
            if not await asyncio.to_thread(self._try_write, data):
                await asyncio.sleep(RETRY_SECONDS)
                self._unsaved.set()

    def save(self) -> None:
        """Save what `run` has not saved yet, at the end."""
        if self._unsaved.is_set():
            self._try_write(encode(Remembered(key_ids=tuple(self._seen))))

    def _try_write(self, data: bytes) -> bool:
        if not self._is_writer:
            return True
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_private(self._file, data)
        except OSError as error:
            log.error("revocations_unsaved", file=str(self._file), reason=error.strerror)
            return False
        return True

    def _read(self) -> tuple[str, ...]:
        try:
            return decode(self._file.read_bytes(), Remembered).key_ids[-MOST_REMEMBERED:]
        except FileNotFoundError:
            return ()
        except (OSError, Unreadable) as error:  # the next revocation replaces it
            log.error("revocations_unreadable", file=str(self._file), reason=str(error))
            return ()
