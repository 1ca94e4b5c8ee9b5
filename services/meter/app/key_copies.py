"""Copies the API keys' records from the bus to the ledger's database, and reports where the bus went back.

A bus that was lost, or restored from an older state, lacks keys and shows revoked ones as usable. The copy has them;
`spotinference setup` brings them back. The meter itself never writes a key's record.
"""

import asyncio
import re

import structlog

from services.meter.core.event_validation import is_name
from services.meter.metrics import Metrics
from services.meter.ports import KeyStore
from shared.key_records import SavedKey, merge_copies, revocations
from shared.messages.keys import KeyRecord

REFRESH_SECONDS = 60.0
"""How old the comparison may be if nothing changes: other replicas write to the copy too."""
_DIGEST = re.compile("[0-9a-f]{64}")

log = structlog.get_logger()


class KeyCopies:
    """`on_key` takes each change on the bus; call `refresh`, then `wait`, for ever."""

    def __init__(self, store: KeyStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._on_bus: dict[str, SavedKey] = {}
        self._has_changed = asyncio.Event()
        self.fault: str | None = None
        """How the bus differs from the copy, for people."""

    def on_key(self, digest: str, record: KeyRecord | None) -> None:
        """Take a record from the bus; None: it is gone or unreadable."""
        if record is None:
            self._on_bus.pop(digest, None)
        elif _DIGEST.fullmatch(digest) and is_name(record.id):
            self._on_bus[digest] = SavedKey(digest=digest, record=record)
        self._has_changed.set()

    async def refresh(self) -> None:
        """Add to the copy what it lacks, and compare. Raises one of `DATABASE_ERRORS`."""
        self._has_changed.clear()
        on_bus = dict(self._on_bus)
        copy = {saved.digest: saved.record for saved in await self._store.read()}
        merged = merge_copies(on_bus.values(), (SavedKey(digest=d, record=r) for d, r in copy.items()))
        await self._store.merge([saved for digest, saved in on_bus.items() if merged[digest] != copy.get(digest)])
        missing = copy.keys() - on_bus.keys()
        revived = [digest for digest, saved in on_bus.items() if merged[digest] != saved.record]
        self._metrics.revocations.set(len(revocations(merged.values())))
        self._metrics.keys_missing.set(len(missing))
        self._metrics.keys_revived.set(len(revived))
        self._report(len(missing), len(revived))

    async def wait(self) -> None:
        """Return when something changed, or the comparison is too old."""
        try:
            async with asyncio.timeout(REFRESH_SECONDS):
                await self._has_changed.wait()
        except TimeoutError:
            return

    def _report(self, missing: int, revived: int) -> None:
        fault = None
        if missing or revived:
            fault = (
                f"the bus lacks {missing} keys and shows {revived} as usable that have ended: did it lose data, or "
                "come back from an older state? run `spotinference setup`"
            )
        if fault != self.fault:
            log.warning("keys_differ" if fault else "keys_agree", missing=missing, revived=revived)
        self.fault = fault
