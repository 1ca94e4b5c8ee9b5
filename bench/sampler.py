"""The cells of a run: what load, and what one target did under it."""

import operator
import time
from dataclasses import astuple, dataclass
from datetime import UTC, datetime

import msgspec

from bench.load import Cell, LoadResult, Series, Wrong
from bench.processes import busy_ns, own_ns
from bench.targets import Stage, Target

SATURATED = "saturated"
PACED = "50 requests/s"
STREAMS_20 = "20 streams"
STREAMS_200 = "200 streams"
FLOOD = "flood"
NOISE = 0.1
"""Of a core: where others take more, a figure is marked."""


def cells(seconds: float) -> dict[str, Cell]:
    """By name. Two of them last longer: there a second shows few requests. A stream lasts one second at most."""
    stream = min(1.0, seconds)
    return {
        SATURATED: Cell(kind="closed", connections=32, seconds=seconds),
        PACED: Cell(kind="open", connections=64, rate=50, seconds=2 * seconds),
        STREAMS_20: Cell(
            kind="open", connections=20, tokens=round(100 * stream), interval_ms=10, warm=stream, seconds=2 * seconds
        ),
        STREAMS_200: Cell(
            kind="open", connections=200, tokens=round(50 * stream), interval_ms=20, warm=stream, seconds=seconds
        ),
        FLOOD: Cell(kind="closed", connections=32, tokens=100, seconds=seconds / 2),
    }


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of one round against one target. `core` and `others` are parts of the target's core."""

    round: int
    cell: str
    target: str
    result: LoadResult
    cpu_ns: int
    """The target's; of the gateway, until the ledger had confirmed every request of the cell."""
    kernel_ns: int
    """What of it was the kernel's."""
    core: float
    """What the target had of its core while the load ran."""
    others: float
    """What anybody else took of it meanwhile."""
    others_elsewhere: float
    """What anybody but the benchmark took of the other cores, as a part of one."""
    settle_seconds: float
    """From the last answer to the ledger's confirmation."""

    @property
    def foreign(self) -> float:
        """What others took of the core of which they took most."""
        return max(self.others, self.others_elsewhere)

    @property
    def wait(self) -> Series:
        """Of streams, for the first token; else for the answer. `Wrong` when none was measured."""
        return self._seen(self.result.first or self.result.latency)

    @property
    def transit(self) -> Series:
        """Of tokens; `Wrong` when none was measured."""
        return self._seen(self.result.transit)

    @property
    def gap(self) -> Series:
        """Between two tokens of a stream; `Wrong` when none was measured."""
        return self._seen(self.result.gap)

    def _seen(self, series: Series | None) -> Series:
        if series is None:
            raise Wrong(f"{self.cell}, {self.target}: nothing was asked after the warm-up: too short")
        return series

    @property
    def cpu_us_per_request(self) -> float:
        return self.cpu_ns / 1e3 / self.result.requests

    @property
    def cpu_us_per_chunk(self) -> float:
        return self.cpu_ns / 1e3 / self.result.tokens


@dataclass(frozen=True)
class Clocks:
    """Nanoseconds: of the wall, the target, its core, the other cores, the whole benchmark, all its targets."""

    wall: int
    target: int
    core: int
    elsewhere: int
    bench: int
    targets: int

    def __sub__(self, other: "Clocks") -> "Clocks":
        return Clocks(*map(operator.sub, astuple(self), astuple(other)))

    @property
    def others(self) -> float:
        """What anybody but the target took of its core."""
        return max(0, self.core - self.target) / self.wall

    @property
    def others_elsewhere(self) -> float:
        """What anybody but the benchmark took of the other cores, as a part of one."""
        return max(0, self.elsewhere - (self.bench - self.targets)) / self.wall


class Run:
    """Takes samples; counts what must be in the ledger."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._begun = _day()
        self._requests = 0
        self._tokens = 0

    async def sample(self, number: int, name: str, cell: Cell, target: Target) -> Sample:
        before, kernel = self.clocks(target), _kernel_ns(target)
        result = await self._stage.play(target, cell)
        loaded = self.clocks(target) - before
        if target is self._stage.ours:
            await self.count(result)
        whole = self.clocks(target) - before
        return Sample(
            round=number,
            cell=name,
            target=target.name,
            result=result,
            cpu_ns=whole.target,
            kernel_ns=_kernel_ns(target) - kernel,
            core=loaded.target / loaded.wall,
            others=loaded.others,
            others_elsewhere=loaded.others_elsewhere,
            settle_seconds=(whole.wall - loaded.wall) / 1e9,
        )

    def clocks(self, target: Target) -> Clocks:
        """Read them all; the difference of two readings says who worked meanwhile."""
        cores, targets = self._stage.cores, self._stage.targets
        return Clocks(
            wall=time.perf_counter_ns(),
            target=_cpu_ns(target),
            core=busy_ns(cores.gateway),
            elsewhere=busy_ns(cores.others - cores.gateway),
            bench=own_ns(),
            targets=sum(map(_cpu_ns, targets)),
        )

    async def count(self, result: LoadResult) -> None:
        """Wait for the ledger to confirm what the gateway has answered."""
        self._requests += result.requests
        self._tokens += result.tokens
        await self._stage.cluster.settled(self._requests)

    async def check(self) -> None:
        """The ledger has what the clients were given, no more and no less, and the access log a line for each."""
        sums = await self._stage.cluster.ledger({self._begun, _day()})
        if (sums.requests, sums.completion_tokens) != (self._requests, self._tokens):
            raise Wrong(
                f"the ledger has {sums.requests} requests with {sums.completion_tokens} tokens, "
                f"the clients had {self._requests} with {self._tokens}"
            )
        await self._stage.cluster.logged(self._requests)


def _cpu_ns(target: Target) -> int:
    return 0 if target.family is None else target.family.cpu_ns()


def _kernel_ns(target: Target) -> int:
    return 0 if target.family is None else target.family.kernel_ns()


def _day() -> str:
    return datetime.now(UTC).date().isoformat()
