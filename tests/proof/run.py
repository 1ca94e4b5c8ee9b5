"""One proof: break a house by the seed for so long, let it settle, and judge it."""

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.proof.house import built
from tests.proof.schedule import steps
from tests.proof.verdict import Verdict, judged


async def proof(
    folder: Path, seed: int, seconds: float, *, postgres: bool, gateways: bool, say: Callable[[str], None]
) -> Verdict:
    """`gateways`: kill these too. Each fault comes once at least, however long that takes.

    Judged twice, before and after everything is replayed: a replay neither adds nor makes good.
    """
    say(f"seed {seed}")
    async with built(folder, seed, postgres=postgres) as house:
        whats = house.whats(gateways=gateways)
        begun = time.monotonic()
        async with house.traffic.running():
            await house.traffic.more(20)
            for number, step in enumerate(steps(seed, whats)):
                if number >= len(whats) and time.monotonic() - begun > seconds:
                    break
                say(str(step))
                await house.suffer(step)
            await house.traffic.more(20)
        if not gateways:
            assert (house.traffic.cut, house.traffic.refused) == (0, {}), "none of it is on a request's way"
        await house.settle()
        before = await judged(house)
        if before.faults:
            return before
        await house.replay(Random(seed))
        await house.settle()
        return await judged(house)
