"""Remembers in a file which API keys were revoked, and when replaced secrets end: an older bus revives none of them."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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
"""Keys, and secrets; the one that was seen the longest ago is forgotten first. The file has some 13 MB then."""
RETRY_SECONDS = 5.0

log = structlog.get_logger()
V = TypeVar("V")


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """The file, oldest first."""

    key_ids: tuple[str, ...] = ()
    """The revoked keys."""
    ends: dict[str, float] = {}
    """By digest, when each secret ends that a new one replaced (Unix seconds)."""


class Revocations:
    """The view `keys`, without what has ended; `run` saves what it learned.

    One process of a data directory writes the file.
    """

    def __init__(self, data_dir: Path, *, is_writer: bool, now: Callable[[], float]) -> None:
        self.keys = View(KEYS, KeyRecord, check=self.check)
        self._file = data_dir / "gateway" / "revoked.json"
        self._is_writer = is_writer
        self._now = now
        remembered = self._read()
        self._seen = dict.fromkeys(remembered.key_ids[-MOST_REMEMBERED:])
        self._ends = dict(list(remembered.ends.items())[-MOST_REMEMBERED:])
        self._unsaved = asyncio.Event()

    @property
    def count(self) -> int:
        """How many revoked keys are remembered."""
        return len(self._seen)

    def check(self, digest: str, record: KeyRecord) -> None:
        """Remember what ends. Raises `Unreadable` for what is known to have ended and no longer shown so."""
        self._check_end(digest, record)
        if record.revoked_at is None:
            if record.id in self._seen:
                raise Unreadable(
                    f"key {record.id[:SHOWN]} was revoked: the bus is in an older state: run `spotinference setup`"
                )
        elif record.id not in self._seen:
            self._remember(self._seen, record.id, None)

    def _check_end(self, digest: str, record: KeyRecord) -> None:
        known = self._ends.get(digest, math.inf)
        if record.replaced_at is not None and record.expires_at is not None and record.expires_at < known:
            self._remember(self._ends, digest, record.expires_at)
        elif known <= self._now() and (record.expires_at is None or record.expires_at > known):
            raise Unreadable(
                f"a secret of key {record.id[:SHOWN]} was replaced: the bus is in an older state: "
                "run `spotinference setup`"
            )

    def _remember(self, memory: dict[str, V], name: str, value: V) -> None:
        memory[name] = value
        while len(memory) > MOST_REMEMBERED:
            del memory[next(iter(memory))]
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
            data = self._encoded()
            if not await asyncio.to_thread(self._try_write, data):
                await asyncio.sleep(RETRY_SECONDS)
                self._unsaved.set()

    def save(self) -> None:
        """Save what `run` has not saved yet, at the end."""
        if self._unsaved.is_set():
            self._try_write(self._encoded())

    def _encoded(self) -> bytes:
        return encode(Remembered(key_ids=tuple(self._seen), ends=self._ends))

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

    def _read(self) -> Remembered:
        try:
            return decode(self._file.read_bytes(), Remembered)
        except FileNotFoundError:
            return Remembered()
        except (OSError, Unreadable) as error:  # the next revocation replaces it
            log.error("revocations_unreadable", file=str(self._file), reason=str(error))
            return Remembered()
