"""A sketch's quantiles are as near as it says, and its parts make the whole."""

import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from services.meter.core.sketch import LEAST, MOST, RELATIVE_ERROR, Sketch

values = st.lists(st.floats(LEAST, MOST), min_size=1, max_size=200)
quantiles = st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0])
SLACK = 1e-9
"""The value of a bin is itself a rounded power."""


def exact(found: list[float], quantile: float) -> float:
    return sorted(found)[math.floor(quantile * (len(found) - 1))]


@given(found=values, quantile=quantiles)
def test_a_quantile_is_within_the_stated_error(found: list[float], quantile: float) -> None:
    (told,) = Sketch.of(found).quantiles([quantile])
    assert abs(told / exact(found, quantile) - 1) <= RELATIVE_ERROR + SLACK


def test_the_error_is_used_and_not_halved() -> None:
    """The stated one is the true bound: some value comes near it."""
    worst = max(abs(Sketch.of([v]).quantiles([0.5])[0] / v - 1) for v in (1 + n / 1000 for n in range(100)))
    assert 0.9 * RELATIVE_ERROR < worst <= RELATIVE_ERROR + SLACK


@given(found=values, seed=st.integers(), parts=st.integers(1, 10))
def test_parts_in_any_order_are_the_whole(found: list[float], seed: int, parts: int) -> None:
    shuffled = Random(seed).sample(found, len(found))
    merged = Sketch()
    for part in range(parts):
        piece = Sketch.of(shuffled[part::parts])
        merged.merge(Sketch.unpacked(piece.packed, piece.total))
    whole = Sketch.of(found)
    assert (merged.bins, merged.total, merged.count) == (whole.bins, whole.total, len(found))


@given(found=values)
def test_the_mean_is_exact_to_a_unit(found: list[float]) -> None:
    assert abs(Sketch.of(found).mean - math.fsum(found) / len(found)) <= 1e-6


def test_what_was_stored_before_is_still_read() -> None:
    """The numbers of the bins are in databases: another error, or another library, needs a migration."""
    assert Sketch.of([1.0, 1.01, 10.0, 1e-6]).bins == {0: 1, 1: 1, 116: 1, -690: 1}
    assert Sketch.unpacked(bytes.fromhex("8200cd012cd1fea702")).bins == {0: 300, -345: 2}


def test_what_is_beyond_the_bounds_counts_as_the_bound() -> None:
    sketch = Sketch.of([0.0, -1.0, 1e300, 2.0**33])
    assert sketch.bins == Sketch.of([LEAST, LEAST, MOST, MOST]).bins
    assert sketch.total < 2**63
    assert max(sketch.bins) - min(sketch.bins) < 1400
