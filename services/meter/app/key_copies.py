"""Copies the API keys' records from the bus to the ledger's database, and reports where the bus went back.

A bus that was lost, or restored from an older state, lacks keys and shows revoked ones as usable. The copy has them;
`spotinference setup` brings them back. The meter itself never writes a key's record.
"""

import asyncio
import re

import structlog

from services.meter.app.database_outage import DATABASE_DOWN
from services.meter.core.event_validation import is_name
from services.meter.metrics import Metrics
from services.meter.ports import KeyStore
from shared.bus.reply import reply
from shared.key_records import SavedKey, merge_copies, revocations
from shared.messages.keys import KeyRecord
from shared.messages.meter import KeyComparison, KeysQuery

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

    async def handle_keys(self, data: bytes) -> bytes:
        """Answer a `KeysQuery`."""

        async def compare(_query: KeysQuery) -> KeyComparison:
            return await self._compare()

        return await reply(data, KeysQuery, compare, DATABASE_DOWN, if_too_large="it is three numbers")

    async def refresh(self) -> None:
        """Add to the copy what it lacks, and compare. Raises one of `DATABASE_ERRORS`."""
        await self._compare()

    async def _compare(self) -> KeyComparison:
        self._has_changed.clear()
        on_bus = dict(self._on_bus)
        copy = {saved.digest: saved.record for saved in await self._store.read()}
        merged = merge_copies(on_bus.values(), (SavedKey(digest=d, record=r) for d, r in copy.items()))
        await self._store.merge([saved for digest, saved in on_bus.items() if merged[digest] != copy.get(digest)])
        comparison = KeyComparison(
            revocations=len(revocations(merged.values())),
            missing=len(copy.keys() - on_bus.keys()),
            revived=sum(merged[digest] != saved.record for digest, saved in on_bus.items()),
        )
        self._metrics.revocations.set(comparison.revocations)
        self._metrics.keys_missing.set(comparison.missing)
        self._metrics.keys_revived.set(comparison.revived)
        self._report(comparison.missing, comparison.revived)
        return comparison

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
