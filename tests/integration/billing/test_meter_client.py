"""The books read all pages of the meter's answer, and tell a day of thousands of keys all the same."""

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from services.billing.app.meter_client import MAX_PAGES, MeterClient
from services.meter.core.token_pages import tokens_page
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.errors import Rejected
from shared.messages.codec import decode, encode
from shared.messages.meter import Tokens, TokensQuery, TokensRow, TokenSums
from tests.integration.billing.billing_service import billing, configured
from tests.unit.billing.cost_row_builders import DAY, focus_csv

BY = ("tier", "model", "key", "outcome")
KEYS = 12_000


def rows(count: int) -> tuple[TokensRow, ...]:
    dimensions = ({"tier": "A", "model": "m", "key": f"key-{n:05}", "outcome": "completed"} for n in range(count))
    return tuple(TokensRow(dimensions=one, sums=TokenSums(prompt_tokens=1)) for one in dimensions)


def answer(count: int, busy: dict[str, tuple[tuple[float, float], ...]] | None = None) -> Tokens:
    return Tokens(day=DAY, complete=True, totals=TokenSums(), served=TokenSums(), rows=rows(count), busy=busy or {})


async def test_all_pages_are_one_answer_also_when_a_busy_time_grew_between_two() -> None:
    bus = MemoryBus()
    cursors: list[str | None] = []

    async def answer_page(data: bytes) -> bytes:
        query = decode(data, TokensQuery)
        cursors.append(query.after)
        grown = ((1.0, 2.0), (3.0, 9.0)) if len(cursors) > 2 else ((1.0, 2.0), (3.0, 4.0), (8.0, 9.0))
        return encode(tokens_page(answer(3, {"a-1": grown}), query.by, query.after or "", 150))

    await bus.respond("meter", subjects.METER_TOKENS, answer_page)
    tokens = await MeterClient(bus).tokens(TokensQuery(day=DAY, by=BY, busy=True))
    assert (tokens.rows, tokens.next) == (rows(3), None)
    assert tokens.busy == {"a-1": ((1.0, 2.0), (3.0, 9.0))}
    assert len(cursors) > 3


async def test_an_answer_with_too_many_pages_is_rejected() -> None:
    bus = MemoryBus()
    cursors = 0

    async def answer_page(_data: bytes) -> bytes:
        nonlocal cursors
        cursors += 1
        return encode(msgspec.structs.replace(answer(1), next='[false,["A"],0]'))

    await bus.respond("meter", subjects.METER_TOKENS, answer_page)
    with pytest.raises(Rejected, match="pages"):
        await MeterClient(bus).tokens(TokensQuery(day=DAY, by=BY))
    assert cursors == MAX_PAGES


async def test_keys_are_left_out_when_the_report_exceeds_a_message(tmp_path: Path) -> None:
    async with billing(tmp_path, configured()) as (books, _):
        books.meter.more = rows(KEYS)
        await books.deliver(focus_csv({"BilledCost": "7.00"}))
        report = await books.report()
        assert (report.spend, report.left_out, report.keys) == (Decimal(7), "keys", ())
        assert sum(model.spend for model in report.models) == 7
        books.meter.more = rows(3)
        assert {key.key_id for key in (await books.report()).keys} >= {"key-00000", "key-00002"}
