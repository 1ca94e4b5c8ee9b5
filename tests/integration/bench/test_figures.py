"""What the benchmark makes of its samples, and that the ledger has to agree."""

from types import SimpleNamespace
from typing import cast

import pytest

from bench.cells import PACED, Run, Sample, cells
from bench.figures import KINDS, Figure, Spread, figures
from bench.house import Room
from bench.load import Series, Told, Wrong
from bench.targets import DIRECT, GATEWAY, NAIVE, NGINX, TARGETS, Stage
from shared.messages.meter import TokenSums


def _sample(number: int, cell: str, target: str, *, ms: float = 1.0, cpu_us: float = 0.0) -> Sample:
    series = Series(100, 0.0, ms / 1e3, 2 * ms / 1e3, 3 * ms / 1e3, 1.0)
    told = Told(
        requests=10,
        tokens=160,
        rate=7.0 * number,
        token_rate=100.0,
        latency=series,
        first=None,
        transit=series,
        gap=series,
        answered=None,
    )
    cpu_ns = int(cpu_us * 1e3)
    return Sample(
        round=number, cell=cell, target=target, told=told, cpu_ns=cpu_ns, core=0.5, others=0.0, settle_seconds=0.0
    )


def _all(number: int, **gateway: float) -> list[Sample]:
    direct = [_sample(number, cell, DIRECT) for cell in cells(1)]
    return direct + [_sample(number, cell, target, **gateway) for cell in cells(1) for target in TARGETS[1:]]


def test_added_is_against_the_direct_call_of_the_same_round() -> None:
    noisy = [_sample(2, PACED, DIRECT, ms=4.0), *(s for s in _all(2, ms=5.0) if (s.cell, s.target) != (PACED, DIRECT))]
    found = _named([*_all(3, ms=4.0), *_all(1, ms=3.0), *noisy])
    added = found["added P50, 50 requests/s"].by_target
    assert set(added) == {NGINX, NAIVE, GATEWAY}
    assert _rounded(added[GATEWAY]) == (2.0, 1.0, 3.0)
    assert _rounded(found["added P95, 50 requests/s"].by_target[GATEWAY]) == (4.0, 2.0, 6.0)


def test_cpu_is_per_request_or_per_chunk() -> None:
    found = _named(_all(1, cpu_us=1600.0))
    assert found["CPU per request, saturated"].by_target[GATEWAY].value == 160.0
    assert found["CPU per relayed chunk, 200 streams"].by_target[GATEWAY].value == 10.0


def test_what_is_done_at_saturation_is_told_of_the_direct_call_too() -> None:
    found = _named(_all(2))
    assert set(found["requests/s, saturated"].by_target) == set(TARGETS)
    assert found["requests/s, saturated"].by_target[DIRECT].value == 14.0


async def test_the_ledger_has_to_agree() -> None:
    def stage(requests: int, tokens: int) -> Stage:
        async def settled(_requests: int) -> None: ...

        async def ledger(_days: set[str]) -> TokenSums:
            return TokenSums(requests=requests, completion_tokens=tokens)

        return cast("Stage", SimpleNamespace(house=SimpleNamespace(settled=settled, ledger=ledger)))

    for requests, tokens in ((9, 160), (10, 159)):
        run = Run(stage(requests, tokens))
        await run.count(_all(1)[0].told)
        with pytest.raises(Wrong, match=f"the ledger has {requests} requests with {tokens} tokens"):
            await run.check()
    run = Run(stage(10, 160))
    await run.count(_all(1)[0].told)
    await run.check()


@pytest.mark.parametrize(
    ("files", "held", "wide"), [(100_000, 10_000, 10_240), (20_000, 10_000, 9_500), (4_096, 1_892, 1_704)]
)
def test_no_more_is_held_than_files_allow(files: int, held: int, wide: int) -> None:
    assert Room.of(files, 10_000) == Room(held, wide)


def _named(samples: list[Sample]) -> dict[str, Figure]:
    found = figures(samples)
    assert [f.name for f in found] == [kind.name for kind in KINDS]
    return {f.name: f for f in found}


def _rounded(spread: Spread) -> tuple[float, float, float]:
    return round(spread.value, 6), round(spread.low, 6), round(spread.high, 6)
