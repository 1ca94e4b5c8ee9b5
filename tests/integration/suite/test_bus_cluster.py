"""A cluster of three NATS servers, three copies of each stream, TLS by a private CA and a user for each service."""

from pathlib import Path

import pytest

from shared.bus.access import BusAccess
from shared.bus.jetstream import connect
from shared.bus.provision import provision
from shared.errors import BusUnavailable
from tests.integration.suite.config import config
from tests.integration.suite.traffic import Traffic, engine_count, ledger_tokens, probe_tokens
from tests.kit.engine import engine_command
from tests.kit.nats_cluster import COPIES, NatsCluster, nats_cluster
from tests.kit.up import up
from tests.kit.waiting import until


async def copies(cluster: NatsCluster) -> set[int | None]:
    async with cluster.connect() as bus:
        return {stream.config.num_replicas for stream in await bus.js.streams_info()}


@pytest.mark.long
async def test_ledger_is_complete_when_a_node_dies_and_another_is_cut_off(tmp_path: Path, slow_model: Path) -> None:
    async with nats_cluster(tmp_path / "bus") as cluster:
        settings = config(engine_command(slow_model), tier='idle_timeout = "10m"') + cluster.section
        (tmp_path / "suite").mkdir()
        async with up(tmp_path / "suite", settings) as suite:
            assert await copies(cluster) == {COPIES}
            traffic = Traffic(suite, await suite.key())
            traffic.start()
            await traffic.more(5)

            killed = await cluster.leader()
            cluster.kill9(killed)
            await traffic.more(20)
            cluster.start(killed)
            silent = await cluster.leader()
            cluster.cut_off(silent)
            await traffic.more(20)
            cluster.join_again(silent)
            await cluster.leader()
            await traffic.more(5)
            await traffic.stop()
            assert traffic.cut == 0, "the bus is not on a request's way"

            engine = await engine_count(suite)
            expected = engine.prompt_tokens + engine.completion_tokens - await probe_tokens(suite)
            await until(lambda: ledger_tokens(suite), lambda seen: seen == (traffic.answered, expected))
            assert len((await suite.json("keys", "list"))["keys"]) == 1
            assert await copies(cluster) == {COPIES}
        assert cluster.refusals() == []


@pytest.mark.long
async def test_provisioning_keeps_copies_when_fewer_are_requested(tmp_path: Path) -> None:
    async with nats_cluster(tmp_path / "bus") as cluster:
        for requested, expected in ((1, 1), (COPIES, COPIES), (1, COPIES)):
            async with cluster.connect() as bus:
                await provision(bus, replicas=requested)
            assert await copies(cluster) == {expected}

        untrusted = BusAccess(urls=cluster.access.urls, nkey_file=cluster.access.nkey_file).for_role("setup")
        with pytest.raises(BusUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            async with connect(untrusted, name="test", wait=1.0):
                pass
