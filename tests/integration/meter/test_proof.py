"""Whatever dies, and however often: the ledger is the engine's own count, less what a killed gateway had under way.

`make proof SEED=… SECONDS=…` goes on for longer.
"""

from pathlib import Path

import pytest

from tests.proof.run import proof
from tests.proof.schedule import steps

SECONDS = 8.0
SEED = 7
LONG = pytest.mark.long


@LONG
@pytest.mark.timeout(240)
@pytest.mark.parametrize("postgres", [False, True], ids=["sqlite", "postgresql"])
async def test_without_a_killed_gateway_nothing_is_lost_and_nothing_counted_twice(
    tmp_path: Path, postgres: bool
) -> None:
    verdict = await proof(tmp_path, SEED, SECONDS, postgres=postgres, gateways=False, say=print)
    print(verdict)
    assert verdict.faults == ()
    assert (verdict.lost, verdict.losable) == (0, 0)
    assert verdict.counted > 100


@pytest.mark.timeout(240)
@pytest.mark.parametrize("postgres", [False, pytest.param(True, marks=LONG)], ids=["sqlite", "postgresql"])
async def test_a_killed_gateway_loses_no_more_than_it_had_under_way(tmp_path: Path, postgres: bool) -> None:
    verdict = await proof(tmp_path, SEED, SECONDS, postgres=postgres, gateways=True, say=print)
    print(verdict)
    assert verdict.faults == ()
    assert verdict.losable > 0
    assert verdict.counted > 100


def test_a_seed_says_all_that_goes_wrong() -> None:
    first, again, other = (
        [step for step, _ in zip(steps(seed, ("bus", "meter", "cut")), range(50), strict=False)] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert {step.what for step in first[:3]} == {"bus", "meter", "cut"}
