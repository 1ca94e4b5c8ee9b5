"""Hosts whose clocks are minutes apart: demand, uses, gates and idleness are judged by nobody else's clock."""

import time
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from shared.budget_gates import tier_scope
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import BUDGET
from shared.messages.budget import BudgetGate
from shared.messages.codec import encode
from tests.integration.waker.cluster import built
from tests.kit.service import ServiceProcess
from tests.kit.waiting import until

MINUTES = 60.0


@pytest.mark.parametrize(
    "minutes", [pytest.param(20, id="ahead"), pytest.param(-20, id="behind", marks=pytest.mark.long)]
)
async def test_a_waker_whose_clock_is_wrong_wakes_and_puts_to_sleep(
    bus: JetStreamBus, nats_url: str, tmp_path: Path, minutes: int
) -> None:
    async with built(bus, nats_url, tmp_path, idle="1s", waker='gateway_timeout = "4s"') as cluster:
        cluster.text = cluster.text.replace(
            'idle_timeout = "1s"', 'idle_timeout = "1s"\nprice_per_hour = "1"\ndaily_budget = "9"'
        )
        gate = BudgetGate(
            open=True, reason="", spend=Decimal(0), limit=Decimal(9), observed_at=time.time(), observed_age_s=0.0
        )
        await bus.put(BUDGET, subjects.budget_key(tier_scope("t-m1")), encode(gate))
        await cluster.gateway()
        waker = await cluster.waker(ahead=minutes * MINUTES)
        assert await cluster.ask()
        await cluster.reaches("m1", "asleep")
        alarms = await clock_of(waker)
        assert f"1200.0 s {'ahead of' if minutes > 0 else 'behind'} the clock of the bus" in alarms["clock"]
        assert await skew_of(waker) == pytest.approx(minutes * MINUTES, abs=2)
        assert abs(await skew_of(cluster.gateways[0])) < 2


@pytest.mark.long
@pytest.mark.parametrize("minutes", [20, -20], ids=["ahead", "behind"])
async def test_a_gateway_whose_clock_is_wrong_is_woken_for_and_keeps_no_machine_awake(
    bus: JetStreamBus, nats_url: str, tmp_path: Path, minutes: int
) -> None:
    async with built(bus, nats_url, tmp_path, idle="1s", waker='gateway_timeout = "4s"') as cluster:
        await cluster.gateway(ahead=minutes * MINUTES)
        await cluster.waker()
        assert await cluster.ask()
        await cluster.reaches("m1", "asleep")
        assert await cluster.ask(streamed=True)


async def clock_of(service: ServiceProcess) -> dict[str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"{service.announced.metrics_url}/readyz") as page:
        assert page.status == 200, "it goes on serving"
        alarms: dict[str, str] = (await page.json())["alarms"]
        return alarms


async def skew_of(service: ServiceProcess) -> float:
    async def read() -> float | None:
        url = f"{service.announced.metrics_url}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as page:
            lines = (await page.text()).splitlines()
        return next((float(line.split()[1]) for line in lines if line.startswith("spot_clock_skew_seconds ")), None)

    skew = await until(read, lambda skew: skew is not None)
    assert skew is not None
    return skew
