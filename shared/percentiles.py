"""Which of some sorted values is a percentile."""

import math

ROUNDING = 1e-9
"""0.95 * 20 is 19, whatever a float makes of it."""


def nearest_rank(quantile: float, count: int) -> int:
    """Return the index, among `count` sorted values, of the least one that covers this share of them.

    The P95 of few values is thus the largest, never one that leaves more than 5 % of them above itself.
    """
    return max(0, math.ceil(quantile * count - ROUNDING) - 1)
