"""How long `spotinference plan` takes for a year of traffic: `python -m bench.plan [REQUESTS]`, on one core."""

import random
import sys
import time
from itertools import chain

from shared.config.fleet import Tier
from shared.config.sections import Config, WakerSection
from shared.config.values import Money
from shared.units import DAY_S
from spotinference.plan.policies import plan_tier
from spotinference.plan.traffic import Request, traffic

START = 1_767_225_600.0
"""2026-01-01T00:00:00Z."""


def year(count: int) -> list[Request]:
    """Office hours: sessions of a few requests each, at any minute of the day but mostly by day."""
    chance = random.Random(7)
    results: list[Request] = []
    while len(results) < count:
        day = START + chance.randrange(365) * DAY_S
        at = day + (chance.gauss(13, 3) if chance.random() < 0.9 else chance.uniform(0, 24)) % 24 * 3600
        for _ in range(chance.randint(1, 30)):
            tokens = chance.randint(20, 2000)
            results.append(Request(at, tokens / 50, tokens))
            at += chance.expovariate(1 / 40)
    return [r for r in results[:count] if START <= r.arrived < START + 365 * DAY_S]


def main() -> None:
    requests = year(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    tier = Tier(name="h100x2", provider="hyperstack", price_per_hour=Money("5"), keep_warm=("mon-fri 09:00-10:00",))
    config = Config(waker=WakerSection(max_cycles_per_hour=6), tier=(tier,))
    began = time.process_time()
    plan = plan_tier(config, tier, traffic(requests, (START, START + 365 * DAY_S)), 150.0, "given")
    seconds = time.process_time() - began
    print(f"{plan.requests:,} requests through {len(plan.rows)} policies: {seconds:.1f} s")
    for row in plan.rows:
        print(*chain((row.policy, row.timeout, row.cost, row.outcome.wakes), map(row.outcome.wait, (0.5, 0.95, 0.99))))


if __name__ == "__main__":
    main()
