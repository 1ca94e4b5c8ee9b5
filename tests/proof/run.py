"""One proof: inject faults by the seed for some time, let the cluster settle, and check every number."""

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.proof.cluster import running_cluster
from tests.proof.schedule import faults
from tests.proof.verdict import Verdict, check


async def proof(
    folder: Path, seed: int, seconds: float, *, postgres: bool, gateways: bool, report: Callable[[str], None]
) -> Verdict:
    """Run the proof. `gateways`: kill these too. Each fault occurs at least once, however long that takes.

    The numbers are checked twice, before and after everything is replayed: a replay neither adds events nor makes up
    for lost ones.
    """
    report(f"seed {seed}")
    async with running_cluster(folder, seed, postgres=postgres) as cluster:
        fault_kinds = cluster.fault_kinds(gateways=gateways)
        begun = time.monotonic()
        async with cluster.traffic.running():
            await cluster.traffic.more(20)
            for number, fault in enumerate(faults(seed, fault_kinds)):
                if number >= len(fault_kinds) and time.monotonic() - begun > seconds:
                    break
                report(str(fault))
                await cluster.inject(fault)
            await cluster.traffic.more(20)
        if not gateways:
            assert (cluster.traffic.cut, cluster.traffic.refused) == (0, {}), "no fault is on a request's path"
        await cluster.settle()
        before = await check(cluster)
        if before.faults:
            return before
        await cluster.replay(Random(seed))
        await cluster.settle()
        return await check(cluster)
