"""Whatever dies, and however often: the ledger is the engine's own count, less what a killed gateway had under way.

`make proof SEED=… SECONDS=…` goes on for longer.
"""

from pathlib import Path

import pytest

from tests.proof.run import proof
from tests.proof.schedule import faults

SECONDS = 8.0
SEED = 7
LONG = pytest.mark.long


@LONG
@pytest.mark.timeout(240)
@pytest.mark.parametrize("postgres", [False, True], ids=["sqlite", "postgresql"])
async def test_nothing_is_lost_or_counted_twice_when_no_gateway_is_killed(tmp_path: Path, postgres: bool) -> None:
    verdict = await proof(tmp_path, SEED, SECONDS, postgres=postgres, gateways=False, report=print)
    print(verdict)
    assert verdict.faults == ()
    assert (verdict.lost, verdict.losable) == (0, 0)
    assert verdict.counted > 100


@pytest.mark.timeout(240)
@pytest.mark.parametrize("postgres", [False, pytest.param(True, marks=LONG)], ids=["sqlite", "postgresql"])
async def test_killed_gateway_loses_no_more_than_it_had_in_flight(tmp_path: Path, postgres: bool) -> None:
    verdict = await proof(tmp_path, SEED, SECONDS, postgres=postgres, gateways=True, report=print)
    print(verdict)
    assert verdict.faults == ()
    assert verdict.losable > 0
    assert verdict.counted > 100


def test_seed_determines_every_fault() -> None:
    first, again, other = (
        [step for step, _ in zip(faults(seed, ("bus", "meter", "cut")), range(50), strict=False)] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert {step.kind for step in first[:3]} == {"bus", "meter", "cut"}
