"""Gateways that vanish or fall silent while a machine drains, and what a gateway's waiting callers are told."""

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import pytest

from shared.bus.jetstream import JetStreamBus
from shared.messages.waker import PhaseEnded
from tests.integration.waker.cluster import Cluster, built
from tests.kit.raw_http import connected
from tests.kit.waiting import PATIENCE_SECONDS

GATEWAY_SECONDS = 4.0
PERIOD_SECONDS = 2.0
"""From one word of a gateway to the next."""
DRAIN_SECONDS = 60.0
"""What every drain is bounded by."""
COMMENT = re.compile(rb": waking tier=(\S+) phase=(\S+) eta=(\S+)")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
async def test_silent_gateway_is_awaited_until_its_timeout(
    bus: JetStreamBus, nats_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    async with built(bus, nats_url, tmp_path, idle="1s", waker=f'gateway_timeout = "{GATEWAY_SECONDS:g}s"') as cluster:
        for _ in range(2):
            await cluster.gateway()
        await cluster.waker()
        await cluster.ask(gateway=1)
        pid = cluster.gateways[1].announced.pid
        try:
            async with cluster.at(lambda record: record.state == "draining", lambda: os.kill(pid, number)) as done:
                await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)
                since = time.time()
                await cluster.reaches("m1", "asleep")
        finally:
            if number == signal.SIGSTOP:
                os.kill(pid, signal.SIGCONT)
        (stopped,) = cluster.lives(word="term")
        # Its last word was at most a period old.
        assert GATEWAY_SECONDS - PERIOD_SECONDS - 0.2 <= stopped.at - since < DRAIN_SECONDS / 2
        await cluster.ask(gateway=0)


async def events(cluster: Cluster) -> list[tuple[bytes, ...]]:
    """What a stream that waits for a wake is told: tier, phase and ETA of each comment."""
    async with connected(cluster.gateways[0].announced.url) as connection:
        await connection.send(cluster.request("m1", streamed=True))
        answer = await connection.answer()
    assert answer is not None
    assert answer.status == 200
    assert answer.body.endswith(b"data: [DONE]\n\n")
    return COMMENT.findall(answer.body)


async def test_waiting_client_sees_phases_and_after_the_first_wake_an_eta(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    """Also under a leader that came later: it remembers how long wakes took."""
    quick = 'headers_held = "100ms"\nheartbeat = "100ms"'
    waker = 'gateway_timeout = "4s"'
    async with built(bus, nats_url, tmp_path, "--load", "2.6", idle="1s", gateway=quick, waker=waker) as cluster:
        await cluster.gateway()
        await cluster.waker()
        first = await events(cluster)
        assert (b"t-m1", b"loading", b"?") in first
        assert all(eta == b"?" for _, phase, eta in first), first
        assert await cluster.wakers[0].stop() == 0
        second = await cluster.waker()
        await cluster.led_by(second)
        await cluster.reaches("m1", "asleep")
        again = await events(cluster)
        etas = [int(eta) for _, phase, eta in again if phase == b"loading"]
        before, now = [e.seconds for e in await cluster.journal() if isinstance(e, PhaseEnded) and e.phase == "loading"]
        assert 1 <= etas[0] <= before + 1.5, "as long as before, or what is left of it"
        assert etas == sorted(etas, reverse=True)
        assert etas[-1] <= max(0.0, before - now) + 1.5, "the end is told when it is near"
