"""The waker reads the budget gates from the bus: what they close it does not wake, until they open."""

import time
from decimal import Decimal
from pathlib import Path

import msgspec

from services.waker.wiring import service
from shared.budget_gates import tier_scope
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import BUDGET, FLEET, FLEET_JOURNAL
from shared.config.load import parse
from shared.messages.budget import BudgetGate
from shared.messages.codec import decode, encode
from shared.messages.gateway import WakeRequest
from shared.messages.waker import JournalEntry, MachineRecord, MachineState, Transition
from shared.runtime.process import Runtime
from tests.kit.waiting import until

CONFIG = """
[[tier]]
name = "a"
provider = "process"
price_per_hour = "1"
daily_budget = "5"
[[tier]]
name = "b"
provider = "process"
[[machine]]
id = "a1"
tier = "a"
command = ["true", "{port}"]
[[machine]]
id = "b1"
tier = "b"
command = ["true", "{port}"]
[[model]]
name = "m"
lineup = ["a"]
[[model]]
name = "n"
lineup = ["b"]
"""


async def gate(bus: JetStreamBus, reason: str) -> None:
    seen = BudgetGate(open=not reason, reason=reason, spend=Decimal(1), limit=Decimal(5), observed_at=time.time())
    await bus.put(BUDGET, subjects.budget_key(tier_scope("a")), encode(seen))


async def want(bus: JetStreamBus, model: str) -> None:
    now = time.time()
    request = WakeRequest(model=model, gateway="g", waiting=1, deadline=now + 600, sent_at=now)
    await bus.publish(subjects.wake_request(model), encode(request))


async def states(bus: JetStreamBus) -> dict[str, MachineState]:
    return {key: decode(entry.value, MachineRecord).state for key, entry in (await bus.entries(FLEET)).items()}


async def woken(bus: JetStreamBus) -> list[str]:
    """Machines, in the order in which their first wakes began."""
    read = msgspec.json.Decoder(JournalEntry)
    entries = [read.decode(received.data) for received in await bus.read(FLEET_JOURNAL)]
    return list(dict.fromkeys(e.machine for e in entries if isinstance(e, Transition) and e.to_state == "waking"))


async def test_a_closed_tier_is_not_woken_before_its_gate_opens(bus: JetStreamBus, tmp_path: Path) -> None:
    await gate(bus, "budget_closed")
    for model in ("m", "n"):
        await want(bus, model)  # before the waker begins, and again when it leads
    runtime = Runtime(service="waker", config=parse(CONFIG, "test"), data_dir=tmp_path, bus=bus, port=None)
    async with service(runtime):
        await until(lambda: woken(bus), bool)
        assert await woken(bus) == ["b1"]
        await want(bus, "m")
        await want(bus, "n")
        before = await until(lambda: states(bus), lambda current: current.keys() == {"a1", "b1"})
        assert before["a1"] == "asleep"
        await gate(bus, "")
        await until(lambda: woken_on_demand(bus), lambda names: names == ["b1", "a1"])
    await runtime.cancel_tasks()
    assert not runtime.crashed


async def woken_on_demand(bus: JetStreamBus) -> list[str]:
    """Gateways repeat what they want."""
    await want(bus, "m")
    return await woken(bus)
