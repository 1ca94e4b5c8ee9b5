"""SIGHUP: tiers, machines and models change while machines serve."""

import asyncio
import os
import signal

from shared.bus import subjects
from shared.bus.topology import FLEET
from shared.messages.waker import Transition
from tests.integration.waker.conftest import ClusterBuilder
from tests.kit.service import ServiceProcess
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
    moves = [entry for entry in await cluster.journal() if isinstance(entry, Transition) and entry.machine == "m1"]
    assert [move.to_state for move in moves] == ["asleep", "waking", "ready"]
