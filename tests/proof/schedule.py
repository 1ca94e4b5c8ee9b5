"""What goes wrong, when and to whom: all of it follows from the seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

What = Literal["gateway", "meter", "bus", "restore", "database", "cut", "hold", "replay", "power"]
PAUSES = (0.2, 1.2)
"""Seconds from one fault to the next: some meet a house at rest, some meet one that still recovers."""
DOWN = (0.0, 1.0)
"""Seconds that whatever was killed stays away."""


@dataclass(frozen=True)
class Step:
    """One fault. `number` picks whom it meets, where there are several."""

    what: What
    number: int
    pause: float
    down: float

    def __str__(self) -> str:
        return f"{self.what} {self.number}, after {self.pause:.2f} s, for {self.down:.2f} s"


def steps(seed: int, whats: Sequence[What]) -> Iterator[Step]:
    """Without end. Each of `whats` comes once a round, in an order that changes."""
    random = Random(seed)
    while True:
        for what in random.sample(whats, len(whats)):
            yield Step(what, random.randrange(1000), random.uniform(*PAUSES), random.uniform(*DOWN))
