"""A task of the meter that fails, for whatever reason, stops no other."""

from pathlib import Path

import pytest

from services.meter import wiring
from services.meter.adapters.confirmed_marks import SqlConfirmedMarks
from services.meter.wiring import service
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.config.load import parse
from shared.messages.codec import decode, encode
from shared.messages.meter import Tokens, TokensQuery
from shared.runtime.process import Runtime
from tests.kit.usage import send
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.meter.events import MIDNIGHT, event, sums_of

DAY = "2026-11-23"
NOW = MIDNIGHT + 3 * 86_400.0
COMPARISON = "comparison with the marks"


def runtime_on(bus: MemoryBus, home: Path) -> Runtime:
    config = parse('[meter]\nkeep_events = "36500d"\nsource_silence = "1m"\ndrain_grace = "0.1s"\n', "test.toml")
    return Runtime(service="meter", config=config, data_dir=home, bus=bus, port=None, now=lambda: NOW)


async def tokens_of(bus: MemoryBus) -> Tokens:
    return decode(
        await bus.request(subjects.METER_TOKENS, encode(TokensQuery(day=DAY)), timeout=PATIENCE_SECONDS), Tokens
    )


async def test_failed_comparison_is_retried_while_events_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, broken = MemoryBus(), True
    compare = SqlConfirmedMarks.compare

    async def fail(book: SqlConfirmedMarks, *arguments: object, **named: object) -> dict[str, int]:
        if broken:
            raise ZeroDivisionError("a bug")
        return await compare(book, *arguments, **named)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(SqlConfirmedMarks, "compare", fail)
    monkeypatch.setattr(wiring, "SWEEP_SECONDS", 0.2)
    events = [event("gw-1", n, completed_at=MIDNIGHT + n) for n in (1, 2)]
    runtime = runtime_on(bus, tmp_path)
    async with service(runtime):
        await send(bus, *events)
        counted = await until(lambda: tokens_of(bus), lambda tokens: tokens.totals == sums_of(events))
        assert not counted.complete
        assert any("has not been compared with its marks" in reason for reason in counted.reasons)
        assert "a bug" in str(runtime.health.faults())
        assert (runtime.registry.get_sample_value("spot_work_failures_total", {"work": COMPARISON}) or 0) >= 1
        broken = False
        whole = await until(lambda: tokens_of(bus), lambda tokens: not any("compared" in r for r in tokens.reasons))
        assert whole.totals == sums_of(events)
    await runtime.cancel_tasks()
    assert not runtime.crashed


async def test_open_gaps_and_incomplete_days_are_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "GAUGES_SECONDS", 0.05)
    bus = MemoryBus()
    runtime = runtime_on(bus, tmp_path)

    async def gauges() -> tuple[float | None, float | None]:
        value = runtime.registry.get_sample_value
        return value("spot_meter_open_gaps"), value("spot_meter_incomplete_days")

    async with service(runtime):
        await until(gauges, lambda values: values == (0, 0))
        await send(bus, event("gw-1", 1, completed_at=MIDNIGHT + 1), event("gw-1", 4, completed_at=MIDNIGHT + 4))
        await until(gauges, lambda values: values == (2, 3))  # and two days that it may still write to
