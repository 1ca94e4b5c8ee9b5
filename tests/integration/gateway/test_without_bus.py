"""Gateways that lose the bus: unready in the end, but never all at once."""

import asyncio
import re
from collections import defaultdict

from shared.bus.ports import Received
from shared.bus.subjects import LIMITS
from shared.messages.codec import decode
from shared.messages.gateway import QuotaReport
from tests.integration.gateway.conftest import Front
from tests.integration.gateway.hostile import Opened, send_request, whole
from tests.kit.nats_server import NatsServer
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.waiting import until


async def know_each_other(front: Front) -> None:
    """Return once two gateways have each received the other's report."""
    received_from: defaultdict[str, set[str]] = defaultdict(set)

    async def on_report(received: Received) -> None:
        report = decode(received.data, QuotaReport)
        received_from[report.gateway] |= report.heard.keys()

    subscription = await front.bus.subscribe(LIMITS, on_report)
    await until(
        lambda: asyncio.sleep(0, [name for name, others in received_from.items() if others]),
        lambda names: len(names) == 2,
    )
    await subscription.stop()


async def own_limit(front: Front) -> float:
    """Return after how many seconds the gateway says it is unready, once it is."""
    _, faults = await until(front.ready, lambda answer: answer[0] == 503)
    assert "bus" in faults
    match = re.fullmatch(r"without the bus for \d+ s, longer than this gateway's ([\d.]+) s", faults["bus"])
    assert match, faults["bus"]
    return float(match[1])


async def test_gateways_without_the_bus_are_unready_one_by_one_and_serve_meanwhile(
    opened: Opened, scripted_engine: ScriptedEngine, nats_server: NatsServer
) -> None:
    elder = await opened('unready_without_bus = "1s"')
    younger = await opened('unready_without_bus = "1s"', folder="younger")
    await elder.machine("m1", "ready", scripted_engine.base_url)
    await elder.seen(2)
    await know_each_other(elder)
    assert (await elder.ready())[0] == (await younger.ready())[0] == 200
    nats_server.kill9()
    limits = await asyncio.gather(own_limit(younger), own_limit(elder))
    assert tuple(limits) == (1.0, 1.5)
    assert (await send_request(elder, whole(elder))).status == 200, "what is awake is served all the same"
    nats_server.start()
    for front in (elder, younger):
        await until(front.ready, lambda answer: answer[0] == 200)
