"""A compact distribution of values: counts in bins that grow with the value (DDSketch).

A bin is as wide as the stated error, so a quantile is that close to the exact one, whatever the values are. Counts are
only added: any order and any grouping of the same values gives the same sketch.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

import msgspec
from ddsketch.mapping import LogarithmicMapping

from shared.messages.codec import PackedDecoder
from shared.percentiles import nearest_rank

RELATIVE_ERROR = 0.01
"""The error of a quantile. Stored sketches were counted with it: another value needs a migration."""
LEAST, MOST = 1e-6, 1e6
"""Values outside count as these, a microsecond and eleven days, which bounds a sketch to some 1400 bins."""
UNIT = 1e-6
"""Sums are whole numbers of it, so their order does not matter either."""

_mapping = LogarithmicMapping(RELATIVE_ERROR)
_decoder = PackedDecoder(dict[int, int])


class Sketch:
    """`bins`: how many values each bin has; `total`: their sum, in units."""

    def __init__(self, bins: dict[int, int] | None = None, total: int = 0) -> None:
        self.bins = {} if bins is None else bins
        self.total = total

    @classmethod
    def of(cls, values: Iterable[float]) -> "Sketch":
        """Count some values. The loop is kept short: every event of the ledger passes through it."""
        bins: dict[int, int] = {}
        total, key_of = 0, _mapping.key
        for value in values:
            bounded = LEAST if value < LEAST else min(value, MOST)
            key = key_of(bounded)
            bins[key] = bins.get(key, 0) + 1
            total += round(bounded / UNIT)
        return cls(bins, total)

    @classmethod
    def unpacked(cls, packed: bytes, total: int = 0) -> "Sketch":
        return cls(_decoder.decode(packed), total)

    @property
    def packed(self) -> bytes:
        return msgspec.msgpack.encode(self.bins)

    @property
    def count(self) -> int:
        return sum(self.bins.values())

    @property
    def mean(self) -> float:
        return self.total * UNIT / self.count

    def merge(self, other: "Sketch") -> None:
        for key, count in other.bins.items():
            self.bins[key] = self.bins.get(key, 0) + count
        self.total += other.total

    def quantiles(self, shares: Iterable[float]) -> list[float]:
        """Return quantiles of a sketch that is not empty: each within `RELATIVE_ERROR` of the value at its rank."""
        keys = sorted(self.bins)
        counted = list(accumulate(self.bins[key] for key in keys))
        places = (bisect_right(counted, nearest_rank(share, counted[-1])) for share in shares)
        return [float(_mapping.value(keys[place])) for place in places]
