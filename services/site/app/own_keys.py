"""A person's keys: what is known of each, and making, rolling and revoking them."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from services.site.core.key_forms import KeyLimits, NewKey, lowered
from services.site.core.people import Person
from shared.bus.ports import Bus, Handle, Received
from shared.bus.subjects import LIMITS
from shared.bus.topology import KEYS, MONTHS, WAKES
from shared.bus.view import View
from shared.errors import Rejected
from shared.key_store import create_key, revoke_key, roll_key
from shared.messages.codec import decode
from shared.messages.gateway import QuotaReport
from shared.messages.keys import KeyRecord, digest
from shared.messages.meter import KeyMonth, month_of
from shared.messages.waker import KeyWakes
from shared.report_forms.words import format_count
from shared.units import DAY_S, HOUR_S

MOST_KEYS = 50
"""Of one person that are not revoked."""
MOST_SECRETS_A_DAY = 100
"""Made for one person, by new keys and by rolling: records stay on the bus, and every gateway holds them."""
VISIBLE_S = 2.0
"""How long an answer waits until the site's own view shows what it wrote."""
SILENT_S = 10.0
"""A gateway that has been silent for this long has gone, and uses nothing."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One limit of a key and what is used of it; None: not known."""

    label: str
    limit: str
    used: str | None


@dataclass(frozen=True, kw_only=True)
class OwnKey:
    """One key as its owner sees it."""

    record: KeyRecord
    state: str
    """`usable`, `expired` or `revoked`."""
    earlier_until: float | None
    """Until when a secret from before the last roll is valid."""
    limits: tuple[Limit, ...]


@dataclass(frozen=True, kw_only=True)
class KeyUseOfWakes:
    """What the wakes cost today that a key's requests caused, and those under way."""

    key_name: str
    key_id: str
    models: tuple[str, ...]
    """Whose wakes are under way."""
    cost: Decimal
    """USD on `day`: the price of the woken machines until their first use."""
    day: str


class OwnKeys:
    """The keys of people, from views of the bus."""

    def __init__(self, bus: Bus, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._bus = bus
        self._now = now
        self._monotonic = monotonic
        self._changed = asyncio.Event()
        self._keys: View[KeyRecord] = View(KEYS, KeyRecord, lambda _key: self._changed.set())
        self._months: View[KeyMonth] = View(MONTHS, KeyMonth)
        self._wakes: View[KeyWakes] = View(WAKES, KeyWakes)
        self._reports: dict[str, tuple[float, QuotaReport]] = {}
        self._handles: list[Handle] = []

    async def start(self) -> None:
        """Return once the keys are known."""
        self._handles.append(await self._bus.subscribe(LIMITS, self._on_report))
        for view in (self._keys, self._months, self._wakes):
            await view.start(self._bus)
            self._handles.append(view)

    async def stop(self) -> None:
        for handle in self._handles:
            await handle.stop()

    def records(self) -> Iterable[KeyRecord]:
        """Every secret's record."""
        return self._keys.values()

    def of(self, owner: str) -> list[OwnKey]:
        """Return a person's keys: usable ones first, the newest first."""
        return self._described(record for record in self._keys.values() if record.owner == owner)

    def all(self) -> list[OwnKey]:
        """Return everybody's keys, in the same order."""
        return self._described(self._keys.values())

    def find(self, owner: str, key_id: str) -> OwnKey | None:
        """Return this key if it is this person's."""
        return next((key for key in self.of(owner) if key.record.id == key_id), None)

    def wakes_of(self, owner: str) -> list[KeyUseOfWakes]:
        """Return what the wakes of each of a person's keys cost today; a key that woke nothing lately is left out."""
        today = day_of(self._now())
        return [
            KeyUseOfWakes(
                key_name=key.record.name,
                key_id=key.record.id,
                models=wakes.under_way,
                cost=wakes.cost if wakes.day == today else Decimal(0),
                day=today,
            )
            for key in self.of(owner)
            if (wakes := self._wakes.get(key.record.id)) is not None
        ]

    async def create(self, person: Person, key: NewKey) -> tuple[str, str]:
        """Create a key and return its id and secret. Raises `Rejected`: the person has too many."""
        if sum(own.state == "usable" for own in self.of(person.identity)) >= MOST_KEYS:
            raise Rejected(f"You have {MOST_KEYS} usable keys, which is the most. Revoke one first.")
        self._check_day(person)
        key_id, secret = await create_key(
            self._bus,
            name=key.name,
            models=key.models,
            expires_at=key.expires_at,
            **vars(key.limits),
            owner=person.identity,
            made_by=person.identity,
        )
        await self._wait_until(lambda: digest(secret) in self._keys)
        return key_id, secret

    async def roll(self, person: Person, key: KeyRecord, *, overlap_s: float, ceilings: KeyLimits) -> str:
        """Give a person's key a new secret, with limits up to the ceilings, and return it. Raises `Rejected`."""
        self._check_day(person)
        limits = lowered(KeyLimits(**{field: getattr(key, field) for field in vars(ceilings)}), ceilings)
        secret = await roll_key(self._bus, key.id, overlap_s=overlap_s, now=self._now(), limits=limits)
        await self._wait_until(lambda: digest(secret) in self._keys)
        return secret

    async def revoke(self, key_id: str, by: Person) -> bool:
        """Revoke a key. Returns False if there is none."""
        is_known = await revoke_key(self._bus, key_id, now=self._now(), by=by.identity)
        await self._wait_until(
            lambda: all(record.revoked_at is not None for record in self._keys.values() if record.id == key_id)
        )
        return is_known

    def _check_day(self, person: Person) -> None:
        """Raise `Rejected` if a person has made too many secrets in the last 24 hours, wherever that was."""
        begin = self._now() - DAY_S
        own = (record for record in self._keys.values() if record.owner == person.identity)
        if sum(max(record.created_at, record.replaced_at or 0.0) > begin for record in own) >= MOST_SECRETS_A_DAY:
            raise Rejected(f"You made {MOST_SECRETS_A_DAY} secrets in 24 hours, which is the most. Try again later.")

    async def _wait_until(self, is_visible: Callable[[], bool]) -> None:
        """Wait a little for the site's own view: the next page is to show what was done."""
        try:
            async with asyncio.timeout(VISIBLE_S):
                while not is_visible():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    async def _on_report(self, message: Received) -> None:
        report, now = decode(message.data, QuotaReport), self._monotonic()
        self._reports[report.gateway] = now, report
        for gateway in [name for name, (at, _) in self._reports.items() if now - at > SILENT_S]:
            del self._reports[gateway]

    def _described(self, records: Iterable[KeyRecord]) -> list[OwnKey]:
        by_id: dict[str, list[KeyRecord]] = {}
        for record in records:
            by_id.setdefault(record.id, []).append(record)
        keys = [self._describe(secrets) for secrets in by_id.values()]
        return sorted(keys, key=lambda key: (key.state != "usable", -key.record.created_at))

    def _describe(self, secrets: list[KeyRecord]) -> OwnKey:
        now = self._now()
        newest = min(secrets, key=lambda record: (record.replaced_at is not None, -(record.replaced_at or 0.0)))
        ends = [r.expires_at for r in secrets if r is not newest and r.expires_at is not None and r.usable(now)]
        state = "usable" if newest.usable(now) else "expired"
        if newest.revoked_at is not None:
            state = "revoked"
        limits = self._limits(newest) if state == "usable" else ()
        return OwnKey(record=newest, state=state, earlier_until=max(ends, default=None), limits=limits)

    def _limits(self, record: KeyRecord) -> tuple[Limit, ...]:
        fresh = [r for at, r in self._reports.values() if self._monotonic() - at <= SILENT_S]
        quotas = [report.keys[record.id].used for report in fresh if record.id in report.keys]
        used = [sum(column) for column in zip(*quotas, strict=True)] if quotas else [0, 0, 0, 0]
        month = self._months.get(record.id)
        month_tokens = month.tokens if month is not None and month.month == month_of(self._now()) else 0
        wakes = self._wakes.get(record.id)
        starts = () if wakes is None else wakes.starts
        numbers: tuple[tuple[str, object, str | None], ...] = (
            ("requests per minute", record.requests_per_minute, format_count(used[0]) if fresh else None),
            ("tokens per minute", record.tokens_per_minute, format_count(used[1]) if fresh else None),
            ("requests at once", record.concurrency, format_count(used[2]) if fresh else None),
            ("tokens per month", record.monthly_tokens, format_count(month_tokens + used[3])),
            ("wakes per hour", record.wakes_per_hour, format_count(sum(self._now() - at < HOUR_S for at in starts))),
        )
        return tuple(
            Limit(label=label, limit=format_count(limit), used=count)
            for label, limit, count in numbers
            if isinstance(limit, int)
        )


def day_of(at: float) -> str:
    """Return the UTC day of a Unix time."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()
