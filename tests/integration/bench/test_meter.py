"""The load of the meter's benchmark: what it publishes can be counted, and it waits for all of it."""

import asyncio

from bench.usage_traffic import SOURCES, Traffic
from services.meter.core.batch import parse_batch
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import LEDGER, METER
from shared.messages.codec import encode
from shared.messages.meter import Confirmed
from tests.kit.waiting import PATIENCE_SECONDS, until

NOW = 1_795_478_400.0
"""2026-11-24T00:00:00Z."""


async def test_every_event_can_be_counted_and_its_numbers_have_no_gap(bus: JetStreamBus) -> None:
    traffic = Traffic()
    for start in (NOW - 100, NOW):
        await traffic.publish(bus, [start + n for n in range(100)])
    batch = parse_batch([d.data for d in await bus.fetch(LEDGER, batch=200, wait=5.0)], NOW + 100)
    assert not batch.quarantined
    for source in SOURCES:
        assert [(run.first, run.last) for run in batch.sequence_ranges[source]] == [(1, 100)]
    assert sum(m.event.completion_tokens for m in batch.countable) == traffic.tokens
    assert traffic.days == {"2026-11-23", "2026-11-24"}


async def test_it_is_drained_once_every_gateway_has_all_confirmations(bus: JetStreamBus) -> None:
    traffic = Traffic()
    watch = await bus.watch(METER, traffic.on_event)
    for _ in SOURCES:
        await traffic.publish(bus, [NOW] * 100)

    async def unconfirmed() -> int:
        return traffic.unconfirmed

    async def left_when_dry() -> int:
        await traffic.wait_until_confirmed()
        return traffic.unconfirmed

    wait_until_confirmed = asyncio.create_task(left_when_dry())
    try:
        for left, (source, mark) in zip((140, 40, 0), (("gw-1", 60), ("gw-2", 100), ("gw-1", 100)), strict=True):
            result = encode(Confirmed(source=source, source_seq=mark, at=NOW))
            await bus.put(METER, subjects.confirmed_key(source), result)
            await until(unconfirmed, left.__eq__)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await wait_until_confirmed == 0
    finally:
        wait_until_confirmed.cancel()
        await watch.stop()
    assert len(traffic.lags) == traffic.published == 200
    assert min(traffic.lags) > 0
