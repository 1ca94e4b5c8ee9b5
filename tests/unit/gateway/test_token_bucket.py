"""A bound on what outsiders cause."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.token_bucket import TokenBucket


@given(
    st.floats(0.1, 10),
    st.integers(1, 20),
    st.lists(st.floats(-5, 5), max_size=200),
)
def test_no_more_pass_than_burst_and_rate_allow(rate: float, burst: int, steps: list[float]) -> None:
    bucket = TokenBucket(rate, burst)
    now = forward = 0.0
    passed = 0
    for step in steps:
        now += step
        forward += max(0.0, step)
        passed += bucket.take(now)
    assert passed <= burst + rate * forward + 1e-6


def test_it_fills_again() -> None:
    bucket = TokenBucket(1.0, 2)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(at) for at in (0.5, 1.0, 1.5, 100.0, 100.0, 100.0)] == [False, True, False, True, True, False]
