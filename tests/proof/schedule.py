"""Which faults occur, when and where: all of it follows from the seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

FaultKind = Literal["gateway", "meter", "bus", "restore", "database", "cut", "hold", "replay", "power"]
PAUSES = (0.2, 1.2)
"""Seconds from one fault to the next: some hit a cluster at rest, some one that is still recovering."""
DOWN = (0.0, 1.0)
"""Seconds that a killed process stays down."""


@dataclass(frozen=True)
class Fault:
    """One fault. `number` selects its target if there are several; `pause` and `down` are seconds."""

    kind: FaultKind
    number: int
    pause: float
    down: float

    def __str__(self) -> str:
        return f"{self.kind} {self.number}, after {self.pause:.2f} s, for {self.down:.2f} s"


def faults(seed: int, fault_kinds: Sequence[FaultKind]) -> Iterator[Fault]:
    """Yield faults without end. Each of `fault_kinds` occurs once a round, in a changing order."""
    random = Random(seed)
    while True:
        for kind in random.sample(fault_kinds, len(fault_kinds)):
            yield Fault(kind, random.randrange(1000), random.uniform(*PAUSES), random.uniform(*DOWN))
