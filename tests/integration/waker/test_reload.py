"""SIGHUP: tiers, machines and models change while machines serve."""

import asyncio
import os
import signal
import time
from decimal import Decimal

from shared.bus import subjects
from shared.bus.topology import BUDGET, FLEET, FLEET_JOURNAL
from shared.journal_entries import decode_entry
from shared.messages.budget import BudgetGate
from shared.messages.codec import decode
from shared.messages.waker import Transition
from shared.units import to_millis
from tests.integration.waker.conftest import ClusterBuilder
from tests.kit.service import ServiceProcess, running
from tests.kit.waiting import until

MORE = """
[[tier]]
name = "more"
provider = "process"
[[machine]]
id = "m2"
tier = "more"
command = ["engine", "{port}"]
[[model]]
name = "other"
lineup = ["more"]
"""


async def _hang_up(waker: ServiceProcess, log_event: str) -> None:
    """Send SIGHUP, and wait until the waker's log says what came of it."""
    assert waker.process is not None
    before = waker.log.read_text().count(log_event)
    os.kill(waker.process.pid, signal.SIGHUP)
    await until(lambda: asyncio.sleep(0, waker.log.read_text()), lambda text: text.count(log_event) > before)


async def test_hangup_adds_and_removes_a_machine_while_another_serves(build_cluster: ClusterBuilder) -> None:
    cluster = await build_cluster()
    waker = await cluster.waker()
    await cluster.reaches("asleep")
    await cluster.want()
    ready, engine = await cluster.reaches("ready"), cluster.engine()
    text = cluster.config.read_text()

    cluster.config.write_text(text.replace('gateway_timeout = "4s"', 'gateway_timeout = "8s"') + MORE)
    await _hang_up(waker, "config_section_not_reloaded")
    await until(lambda: cluster.bus.get(FLEET, subjects.machine_key("m2")), bool)
    assert '"section": "waker"' in waker.log.read_text()

    cluster.config.write_text(text + MORE.replace('["more"]', '["missing"]'))
    await _hang_up(waker, "config_reload_failed")
    assert await cluster.bus.get(FLEET, subjects.machine_key("m2"))

    cluster.config.write_text(text)
    await _hang_up(waker, "config_reloaded")
    await until(lambda: cluster.bus.get(FLEET, subjects.machine_key("m2")), lambda entry: entry is None)
    assert cluster.engine() == engine
    record = await cluster.reaches("ready")
    assert (record.generation, record.since) == (ready.generation, ready.since)
    moves = [entry for entry in await cluster.journal() if isinstance(entry, Transition)]
    assert [move.to_state for move in moves if move.machine == "m1"] == ["asleep", "waking", "ready"]
    assert [move.to_state for move in moves if move.machine == "m2"] == ["asleep", "gone"]


async def test_machine_removed_while_ready_is_estimated_until_then(build_cluster: ClusterBuilder) -> None:
    """Billing still has it in its configuration, with a price of 0.01 USD a millisecond."""
    cluster = await build_cluster()
    text = cluster.config.read_text().replace('"process"\n', '"process"\nprice_per_hour = "36000"\n')
    cluster.config.write_text(text.replace('"local"\nprovider', '"local"\ndaily_budget = "1000000000"\nprovider'))
    waker = await cluster.waker()
    await cluster.reaches("asleep")
    await cluster.stack.enter_async_context(running("billing", cluster.config, cluster.data_dir))
    await cluster.want()
    ready = await cluster.reaches("ready")

    async def spend() -> Decimal | None:
        entry = await cluster.bus.get(BUDGET, subjects.budget_key("tier.local"))
        return None if entry is None else decode(entry.value, BudgetGate).spend

    async def moves() -> list[Transition]:
        entries = [
            decode_entry(m.subject, m.data) for m in await cluster.bus.read(FLEET_JOURNAL, subjects.journal("m1"))
        ]
        return [entry for entry in entries if isinstance(entry, Transition)]

    before, _, after = cluster.config.read_text().partition("[[machine]]")
    cluster.config.write_text(before + after[after.index("[[model]]") :])
    await _hang_up(waker, "config_reloaded")
    removed = await cluster.reaches("gone")
    assert removed.alarm_reason == "removed"
    assert "running_machine_removed" in waker.log.read_text()
    woken, _, gone = (await moves())[1:]
    assert (gone.from_state, gone.to_state, gone.tier) == ("ready", "gone", "local")

    def awake_today() -> Decimal:
        start = max(to_millis(woken.at), int(time.time()) // 86400 * 86_400_000)
        return Decimal(max(0, to_millis(gone.at) - start)) / 100

    await until(spend, lambda amount: amount is not None and amount == awake_today())

    cluster.config.write_text(text)
    await _hang_up(waker, "config_reloaded")
    again = await until(cluster.record, lambda seen: seen is not None and seen[0].state == "ready")
    assert again is not None
    assert (again[0].generation, again[0].alarm) == (ready.generation, "")
    assert [(move.from_state, move.to_state) for move in (await moves())[4:]] == [(None, "waking"), ("waking", "ready")]
