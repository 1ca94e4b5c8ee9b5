"""What a person's keys used: tokens by day, model and key from the ledger, and their cost from the books."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

from msgspec.structs import replace

from services.site.app.own_keys import OwnKey
from services.site.app.page_cache import PageCache
from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import BILLING_BANDS, BILLING_STATEMENT, METER_TOKENS
from shared.errors import BusUnavailable, Rejected
from shared.messages.billing import Band, Bands, BandsQuery, KeyMonthCost, Statement, StatementQuery
from shared.messages.meter import Tokens, TokensQuery, TokensRow, TokenSums, month_of, plausible
from shared.units import DAY_S

DAYS = 30
"""Shown, today included."""
MOST_AT_ONCE = 4
"""Requests to services at the same time, for all pages of this process: the meter has usage to record as well."""
MOST_READ = 200
"""Keys on a page."""
MOST_PAGES = 20
"""Of one answer of the meter: they hold all the rows that it would put into one."""
ENDED_S = 32 * DAY_S
"""Keys that ended before this have no usage on the page."""
TIMEOUT_S = 5.0
HEADING = ("day", "model", "key", "key_id", "requests", "prompt_tokens", "cached_tokens", "completion_tokens")
A = TypeVar("A")


@dataclass(frozen=True, kw_only=True)
class UsageRow:
    """A key's tokens of one model on one UTC day."""

    day: str
    model: str
    key_id: str
    key_name: str
    sums: TokenSums


@dataclass(frozen=True, kw_only=True)
class KeyCost:
    """What a key came to in a month, and how certain that is."""

    key_id: str
    key_name: str
    amount: Decimal | None
    is_complete: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Everything on the page, and in the CSV."""

    first: str
    last: str
    rows: tuple[UsageRow, ...]
    totals: TokenSums
    month: str
    costs: tuple[KeyCost, ...]
    amount: Decimal | None
    """Of the month over all keys; None: not known of one that was used."""
    is_complete: bool
    """Whether the ledger has everything of the days."""
    faults: tuple[str, ...] = field(default=())
    """What could not be read, one sentence each."""

    def table(self) -> list[Sequence[object]]:
        """Return the rows as the CSV has them, the heading first."""
        rows = [
            (r.day, r.model, r.key_name, r.key_id, s.requests, s.prompt_tokens, s.cached_tokens, s.completion_tokens)
            for r in self.rows
            for s in (r.sums,)
        ]
        return [HEADING, *rows]


class OwnUsage:
    """Reads the meter and billing: nobody's query is about another's key."""

    def __init__(self, bus: Bus, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._bus = bus
        self._now = now
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        # A reload shares what is being read, and keeps nothing.
        self._usages: PageCache[Usage] = PageCache(monotonic, most=0)
        self._days: PageCache[dict[str, str | None]] = PageCache(monotonic, most=0)

    async def read(self, keys: Sequence[OwnKey]) -> Usage:
        """Return the usage of a person's keys, of the first `MOST_READ` of those that can have any."""
        listed = [(key.record.id, key.record.name) for key in keys if not self._has_ended(key)]
        return await self._usages.get(" ".join(key_id for key_id, _ in listed), lambda: self._read(listed), fresh_s=0.0)

    async def _read(self, listed: Sequence[tuple[str, str]]) -> Usage:
        keys = listed[:MOST_READ]
        today, month = self._today(), month_of(self._now())
        first = (today - timedelta(days=DAYS - 1)).isoformat()
        ids = [key_id for key_id, _ in keys]
        answers = await self._of_each(ids, "the meter", lambda some: self._tokens(some, first, ("day", "model")))
        statements = await self._of_each(ids, "billing", lambda some: self._costs(some, month))
        rows, faults, is_complete = list[UsageRow](), list[str](), True
        costs = list[KeyCost]()
        if len(listed) > MOST_READ:
            faults.append(f"You have {len(listed)} keys; the usage of {MOST_READ} of them is shown.")
        for key_id, name in keys:
            answer, statement = answers[key_id], statements[key_id]
            if isinstance(answer, str):
                faults.append(f"The usage of {name} is not known now: {answer}")
            else:
                rows += [
                    UsageRow(
                        day=row.dimensions["day"],
                        model=row.dimensions["model"],
                        key_id=key_id,
                        key_name=name,
                        sums=plausible(row.sums),
                    )
                    for row in answer.rows
                ]
                is_complete &= answer.complete
            if isinstance(statement, str):
                faults.append(f"The cost of {name} is not known now: {statement}")
            elif statement.tokens:
                costs.append(
                    KeyCost(
                        key_id=key_id,
                        key_name=name,
                        amount=statement.amount,
                        is_complete=statement.complete,
                        reasons=statement.reasons,
                    )
                )
        rows.sort(key=lambda row: (row.model, row.key_name, row.key_id))
        rows.sort(key=lambda row: row.day, reverse=True)
        amounts = [cost.amount for cost in costs if cost.amount is not None]
        is_priced = len(amounts) == len(costs) and not any(
            isinstance(statement, str) for statement in statements.values()
        )
        return Usage(
            first=first,
            last=today.isoformat(),
            rows=tuple(rows),
            totals=_sum(row.sums for row in rows),
            month=month,
            costs=tuple(costs),
            amount=sum(amounts, Decimal(0)) if is_priced else None,
            is_complete=is_complete and not faults,
            faults=tuple(faults),
        )

    async def last_days(self, keys: Sequence[OwnKey]) -> dict[str, str | None]:
        """Return by key its last UTC day of use within `DAYS`, if any. What is not known is left out."""
        ended: dict[str, str | None] = {key.record.id: None for key in keys if self._has_ended(key)}
        ids = [key.record.id for key in keys if key.record.id not in ended][:MOST_READ]
        return ended | await self._days.get(" ".join(ids), lambda: self._last_days(ids), fresh_s=0.0)

    async def _last_days(self, key_ids: Sequence[str]) -> dict[str, str | None]:
        first = (self._today() - timedelta(days=DAYS - 1)).isoformat()
        answers = await self._of_each(key_ids, "the meter", lambda some: self._tokens(some, first, ("day",)))
        return {
            key_id: max((row.dimensions["day"] for row in answer.rows), default=None)
            for key_id, answer in answers.items()
            if not isinstance(answer, str)
        }

    async def bands(self) -> dict[str, Band]:
        """Return the price bands in force today, by model; those without a price are left out."""
        query = BandsQuery(day=self._today().isoformat())
        try:
            bands = await request_reply(self._bus, BILLING_BANDS, query, Bands, timeout=TIMEOUT_S, patience_s=0)
        except (BusUnavailable, Rejected):
            return {}
        return {band.model: band for band in bands.bands if band.high is not None}

    async def _tokens(self, key_ids: Sequence[str], first: str, by: tuple[str, ...]) -> dict[str, Tokens]:
        """Return by key its part of the answer."""
        today, rows, after, pages = self._today().isoformat(), list[TokensRow](), "", 0
        while True:
            query = TokensQuery(day=first, to=today, by=("key", *by), key=key_ids[0], keys=tuple(key_ids), after=after)
            answer = await request_reply(self._bus, METER_TOKENS, query, Tokens, timeout=TIMEOUT_S, patience_s=0)
            rows += answer.rows
            pages += 1
            if answer.next is None:
                break
            if pages == MOST_PAGES:
                raise Rejected("they used too many models.")
            after = answer.next
        own: dict[str, list[TokensRow]] = {key_id: [] for key_id in answer.keys or key_ids[:1]}
        for row in rows:
            if (part := own.get(row.dimensions.get("key", ""))) is not None:
                part.append(row)
        return {key_id: replace(answer, rows=tuple(part)) for key_id, part in own.items()}

    async def _costs(self, key_ids: Sequence[str], month: str) -> dict[str, Statement | KeyMonthCost]:
        query = StatementQuery(key_id=key_ids[0], month=month, others=tuple(key_ids[1:]))
        answer = await request_reply(self._bus, BILLING_STATEMENT, query, Statement, timeout=TIMEOUT_S, patience_s=0)
        return {answer.key_id: answer, **{each.key_id: each for each in answer.others}}

    async def _of_each(
        self, key_ids: Sequence[str], service: str, ask: Callable[[Sequence[str]], Awaitable[dict[str, A]]]
    ) -> dict[str, A | str]:
        """Return by key what a service says of it, or why that is not known.

        It is asked about all at once, and then about each that was left out: by a service of the release before, which
        knows one at a time, or because the answer would be too large.
        """

        async def ask_about(some: Sequence[str]) -> dict[str, A | str]:
            try:
                async with self._room:
                    return dict(await ask(some))
            except BusUnavailable:
                return dict.fromkeys(some, f"{service} does not answer.")
            except Rejected as error:
                return {some[0]: str(error)} if len(some) == 1 else {}

        answers = await ask_about(key_ids) if key_ids else {}
        rest = [key_id for key_id in key_ids if key_id not in answers]
        for more in await asyncio.gather(*(ask_about([key_id]) for key_id in rest)):
            answers |= more
        return {key_id: answers[key_id] for key_id in key_ids}

    def _has_ended(self, key: OwnKey) -> bool:
        record = key.record
        ends = (at for at in (record.expires_at, record.revoked_at) if at is not None)
        return min(ends, default=math.inf) < self._now() - ENDED_S

    def _today(self) -> date:
        return datetime.fromtimestamp(self._now(), UTC).date()


def _sum(sums: Iterable[TokenSums]) -> TokenSums:
    listed = list(sums)
    return TokenSums(**{name: sum(getattr(each, name) for each in listed) for name in TokenSums.__struct_fields__})
