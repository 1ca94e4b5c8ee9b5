"""What the benchmark makes of its samples, and that the ledger has to agree."""

import io
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from rich.console import Console

from bench.cluster import Sizes
from bench.figures import KINDS, Figure, Spread, figures
from bench.load import BenchmarkFailed
from bench.report import Result, grids, notes, show
from bench.sampler import FLOOD, PACED, SATURATED, STREAMS_200, Run, Sample
from bench.targets import DIRECT, NAIVE, OURS, SMG, TARGETS, Stage
from shared.messages.meter import TokenSums
from tests.integration.bench.samples import all_samples, replaced, sample_of


def test_added_is_against_the_direct_call_of_the_same_round() -> None:
    noisy = [
        sample_of(2, PACED, DIRECT, ms=4.0),
        *(s for s in all_samples(2, ms=5.0) if (s.cell, s.target) != (PACED, DIRECT)),
    ]
    results = _named([*all_samples(3, ms=4.0), *all_samples(1, ms=3.0), *noisy])
    added = results["added P50, 50 requests/s"].by_target
    assert _rounded(added[OURS]) == (2.0, 1.0, 3.0)
    assert _rounded(results["added P95, 50 requests/s"].by_target[OURS]) == (4.0, 2.0, 6.0)
    assert _rounded(added[DIRECT]) == (1.0, 1.0, 4.0)  # its own, in brackets


def test_cpu_is_per_request_or_per_chunk() -> None:
    results = _named(all_samples(1, cpu_us=1600.0))
    assert results["CPU per request, saturated"].by_target[OURS].value == 160.0
    assert results["CPU per chunk, 200 streams"].by_target[OURS].value == 10.0
    assert results["kernel's part, saturated"].by_target[OURS].value == 25.0


def test_a_ratio_is_to_naive_in_the_same_round() -> None:
    samples = [*all_samples(1, cpu_us=100.0), *all_samples(2, cpu_us=200.0), *all_samples(3, cpu_us=100.0)]
    halves = [sample_of(number, SATURATED, OURS, cpu_us=us) for number, us in ((1, 50.0), (2, 120.0), (3, 70.0))]
    ratio = _named(replaced(samples, *halves))["CPU per request ÷ naive"]
    assert _rounded(ratio.by_target[OURS]) == (0.6, 0.5, 0.7)
    assert _rounded(ratio.by_target[NAIVE]) == (1.0, 1.0, 1.0)
    assert (ratio.goal, ratio.next_goal) == (0.65, 0.5)


def test_goals_show_what_is_met_and_how_far_others_are_missed() -> None:
    slow = [sample_of(1, STREAMS_200, OURS, cpu_us=66.25), sample_of(1, SATURATED, OURS, cpu_us=65.0)]
    goals = _grid(replaced(all_samples(1, cpu_us=100.0), *slow), "Goals")
    assert goals["CPU per chunk at 200 streams ÷ naive"][3] == "no, by 25 %"
    assert goals["CPU per request ÷ naive"][3] == "yes"


def test_a_value_beside_other_work_is_marked_and_so_is_a_ratio_to_it() -> None:
    quiet = all_samples(1, cpu_us=100.0)
    assert "!" not in str(_grid(quiet, "Not streamed"))
    rows = _grid(replaced(quiet, sample_of(1, SATURATED, SMG, cpu_us=100.0, others=0.11)), "Not streamed")
    assert rows[SMG] == ("10.0 !", "1.00 !", "25.0 !", "7.00 !", "+0.00", "+0.00", "+0.00", "11.0 !")
    assert "!" not in str(rows[OURS])
    rows = _grid(replaced(quiet, sample_of(1, SATURATED, NAIVE, cpu_us=100.0, others=0.11)), "Not streamed")
    assert rows[OURS][:2] == ("10.0", "1.00 !")


def test_a_noisy_run_and_an_absent_router_are_reported() -> None:
    samples = [s for s in all_samples(1) if s.target != SMG]
    loud = replaced(samples, sample_of(1, PACED, OURS, others=0.5))
    run = Result(conditions={}, figures=figures(loud), samples=loud, absent={SMG: "no wheel"})
    text = "\n".join(notes(run))
    assert "smg is left out: no wheel" in text
    assert f"NOT QUIET: others took too much in 1 of {len(samples)} samples" in text
    assert all(SMG not in row for grid in grids(run) for row in grid.rows)


def test_saturation_figures_include_the_direct_call() -> None:
    results = _named(all_samples(2))
    assert set(results["requests/s, saturated"].by_target) == set(TARGETS)
    assert results["requests/s, saturated"].by_target[DIRECT].value == 14.0


async def test_the_ledger_has_to_agree() -> None:
    def stage(requests: int, tokens: int) -> Stage:
        async def recorded(_requests: int) -> None: ...

        async def ledger(_days: set[str]) -> TokenSums:
            return TokenSums(requests=requests, completion_tokens=tokens)

        return cast(
            "Stage",
            SimpleNamespace(
                cluster=SimpleNamespace(wait_until_confirmed=recorded, wait_until_logged=recorded, ledger=ledger)
            ),
        )

    for requests, tokens in ((9, 160), (10, 159)):
        run = Run(stage(requests, tokens))
        await run.count(all_samples(1)[0].result)
        with pytest.raises(BenchmarkFailed, match=f"the ledger has {requests} requests with {tokens} tokens"):
            await run.check()
    run = Run(stage(10, 160))
    await run.count(all_samples(1)[0].result)
    await run.check()


@pytest.mark.parametrize(
    ("files", "held", "wide"), [(100_000, 10_000, 10_240), (20_000, 9_750, 9_750), (4_096, 1_798, 1_798)]
)
def test_no_more_is_held_than_files_allow(files: int, held: int, wide: int) -> None:
    assert Sizes.of(files, 10_000) == Sizes(held, wide)


def _named(samples: list[Sample]) -> dict[str, Figure]:
    results = figures(samples)
    assert [f.name for f in results][: len(KINDS)] == [kind.name for kind in KINDS]
    return {f.name: f for f in results}


def _grid(samples: list[Sample], title: str) -> dict[str, tuple[str, ...]]:
    """The rows of one table by their first cell."""
    for grid in grids(Result(conditions={}, figures=figures(samples), samples=samples)):
        if grid.title == title:
            return {row[0]: row[1:] for row in grid.rows}
    raise AssertionError(title)


def _rounded(spread: Spread) -> tuple[float, float, float]:
    return round(spread.value, 6), round(spread.low, 6), round(spread.high, 6)


def test_a_sample_without_a_wait_is_shown_all_the_same() -> None:
    samples = all_samples(1)
    hasty = sample_of(1, FLOOD, OURS)
    hasty = msgspec.structs.replace(hasty, result=msgspec.structs.replace(hasty.result, latency=None))
    samples = replaced(samples, hasty)
    console = Console(width=200, record=True, file=io.StringIO())
    show(Result(conditions={}, figures=figures(samples), samples=samples), console)
    assert "Goals" in console.export_text()
