"""Usage that a gateway said it wrote and never delivered is seen after its death, until it arrives."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services.meter import wiring
from services.meter.wiring import service
from shared.bus import subjects
from shared.bus.provision import provision
from shared.bus.topology import USAGE
from shared.config.load import parse
from shared.messages.codec import decode, encode
from shared.messages.meter import Gaps, GapsQuery
from shared.runtime.process import Runtime
from spotinference.doctor import links
from tests.integration.gateway.conftest import Front
from tests.integration.gateway.test_outbox_process import served
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.waiting import PATIENCE_SECONDS, until


async def test_usage_that_a_killed_gateway_did_not_deliver_is_a_metric(
    opened: Callable[..., Awaitable[Front]],
    scripted_engine: ScriptedEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wiring, "GAUGES_SECONDS", 0.1)
    monkeypatch.setattr(wiring, "SWEEP_SECONDS", 0.1)
    front = await opened()
    await front.machine("m1", "ready", scripted_engine.base_url)
    await front.seen()
    home = tmp_path / "meter"
    home.mkdir()
    runtime = Runtime(
        service="meter", config=parse('[meter]\ndrain_grace = "0.1s"\n', "t"), data_dir=home, bus=front.bus, port=None
    )

    def missing() -> Awaitable[float | None]:
        return asyncio.sleep(0, runtime.registry.get_sample_value("spot_meter_usage_missing"))

    async with service(runtime):
        await until(missing, lambda events: events == 0)
        await front.bus.js.delete_stream(USAGE.name)  # the bus takes heartbeats, and no usage
        await served(front, 3)
        await until(missing, lambda events: events == 3)
        await front.service.kill9()
        answer = await front.bus.request(subjects.METER_GAPS, encode(GapsQuery()), timeout=PATIENCE_SECONDS)
        assert "3 events" in links.gaps(decode(answer, Gaps)).diagnostic.text
        assert await missing() == 3
        await provision(front.bus)
        await front.service.start()
        await until(missing, lambda events: events == 0)
    await runtime.cancel_tasks()
