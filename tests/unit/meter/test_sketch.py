"""A sketch's quantiles are within its stated error, and merged parts equal the whole."""

import math
from fractions import Fraction
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from services.meter.core.sketch import LEAST, MOST, RELATIVE_ERROR, Sketch

values = st.lists(st.floats(LEAST, MOST), min_size=1, max_size=200)
quantiles = st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0])
SLACK = 1e-9
"""A bin's value is itself a rounded power."""


def exact(sample: list[float], quantile: float) -> float:
    """Return the least value of which at least this share of the sample is no larger."""
    ordered = sorted(sample)
    share = Fraction(str(quantile))
    return next(v for n, v in enumerate(ordered, 1) if Fraction(n, len(ordered)) >= share)


@given(sample=values, quantile=quantiles)
def test_quantile_is_within_the_stated_error(sample: list[float], quantile: float) -> None:
    (quantile_value,) = Sketch.of(sample).quantiles([quantile])
    assert abs(quantile_value / exact(sample, quantile) - 1) <= RELATIVE_ERROR + SLACK


def test_stated_error_is_reached() -> None:
    """The stated error is a tight bound: some value comes close to it."""
    worst = max(abs(Sketch.of([v]).quantiles([0.5])[0] / v - 1) for v in (1 + n / 1000 for n in range(100)))
    assert 0.9 * RELATIVE_ERROR < worst <= RELATIVE_ERROR + SLACK


@given(sample=values, seed=st.integers(), parts=st.integers(1, 10))
def test_merged_parts_equal_the_whole_in_any_order(sample: list[float], seed: int, parts: int) -> None:
    shuffled = Random(seed).sample(sample, len(sample))
    merged = Sketch()
    for part in range(parts):
        piece = Sketch.of(shuffled[part::parts])
        merged.merge(Sketch.unpacked(piece.packed, piece.total))
    whole = Sketch.of(sample)
    assert (merged.bins, merged.total, merged.count) == (whole.bins, whole.total, len(sample))


@given(sample=values)
def test_mean_is_exact_to_a_unit(sample: list[float]) -> None:
    assert abs(Sketch.of(sample).mean - math.fsum(sample) / len(sample)) <= 1e-6


def test_stored_sketches_stay_readable() -> None:
    """Bin numbers are stored in databases: another error, or another library, needs a migration."""
    assert Sketch.of([1.0, 1.01, 10.0, 1e-6]).bins == {0: 1, 1: 1, 116: 1, -690: 1}
    assert Sketch.unpacked(bytes.fromhex("8200cd012cd1fea702")).bins == {0: 300, -345: 2}


def test_values_beyond_the_bounds_count_as_the_bound() -> None:
    sketch = Sketch.of([0.0, -1.0, 1e300, 2.0**33])
    assert sketch.bins == Sketch.of([LEAST, LEAST, MOST, MOST]).bins
    assert sketch.total < 2**63
    assert max(sketch.bins) - min(sketch.bins) < 1400
