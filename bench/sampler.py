"""The workloads of a run, and the samples taken of each target under them."""

import operator
import time
from dataclasses import astuple, dataclass
from datetime import UTC, datetime

import msgspec

from bench.load import BenchmarkFailed, LoadResult, Series, Workload
from bench.processes import busy_ns, own_ns
from bench.targets import Stage, Target

SATURATED = "saturated"
PACED = "50 requests/s"
STREAMS_20 = "20 streams"
STREAMS_200 = "200 streams"
FLOOD = "flood"
NOISE = 0.1
"""Share of a core: if other processes take more, the figure is marked."""


def workloads(seconds: float) -> dict[str, Workload]:
    """Return the workloads by name. Two last longer, since a second has few requests; a stream lasts a second at
    most."""
    stream = min(1.0, seconds)
    return {
        SATURATED: Workload(kind="closed", connections=32, seconds=seconds),
        PACED: Workload(kind="open", connections=64, rate=50, seconds=2 * seconds),
        STREAMS_20: Workload(
            kind="open", connections=20, tokens=round(100 * stream), interval_ms=10, warm=stream, seconds=2 * seconds
        ),
        STREAMS_200: Workload(
            kind="open", connections=200, tokens=round(50 * stream), interval_ms=20, warm=stream, seconds=seconds
        ),
        FLOOD: Workload(kind="closed", connections=32, tokens=100, seconds=seconds / 2),
    }


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of one round against one target. `core` and `others` are parts of the target's core."""

    round: int
    cell: str
    target: str
    result: LoadResult
    cpu_ns: int
    """CPU time of the target; for the gateway, until the ledger had confirmed every request."""
    kernel_ns: int
    """The kernel's part of it."""
    core: float
    """The target's share of its core while the load ran."""
    others: float
    """Share that other processes took of that core meanwhile."""
    others_elsewhere: float
    """Share that processes outside the benchmark took of the other cores, in cores."""
    settle_seconds: float
    """From the last response to the ledger's confirmation."""

    @property
    def foreign(self) -> float:
        """The highest share that other processes took of a core."""
        return max(self.others, self.others_elsewhere)

    @property
    def wait(self) -> Series:
        """Time to the first token of a stream, else to the response; `BenchmarkFailed` if none was measured."""
        return self._seen(self.result.first or self.result.latency)

    @property
    def transit(self) -> Series:
        """Of tokens; `BenchmarkFailed` when none was measured."""
        return self._seen(self.result.transit)

    @property
    def gap(self) -> Series:
        """Between two tokens of a stream; `BenchmarkFailed` when none was measured."""
        return self._seen(self.result.gap)

    def _seen(self, series: Series | None) -> Series:
        if series is None:
            raise BenchmarkFailed(
                f"{self.cell}, {self.target}: no request was sent after the warm-up: use more --seconds"
            )
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
        """Share that other processes took of the target's core."""
        return max(0, self.core - self.target) / self.wall

    @property
    def others_elsewhere(self) -> float:
        """Share that processes outside the benchmark took of the other cores, in cores."""
        return max(0, self.elsewhere - (self.bench - self.targets)) / self.wall


class Run:
    """Takes samples, and counts what the ledger must contain."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._begun = _day()
        self._requests = 0
        self._tokens = 0

    async def sample(self, number: int, name: str, cell: Workload, target: Target) -> Sample:
        before, kernel = self.clocks(target), _kernel_ns(target)
        result = await self._stage.run(target, cell)
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
        """Read all clocks; the difference of two readings shows who used the CPU meanwhile."""
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
        """Wait until the ledger has confirmed these requests."""
        self._requests += result.requests
        self._tokens += result.tokens
        await self._stage.cluster.wait_until_confirmed(self._requests)

    async def check(self) -> None:
        """Check that the ledger has exactly what the clients got, and the access log a line for each request."""
        sums = await self._stage.cluster.ledger({self._begun, _day()})
        if (sums.requests, sums.completion_tokens) != (self._requests, self._tokens):
            raise BenchmarkFailed(
                f"the ledger has {sums.requests} requests with {sums.completion_tokens} tokens, "
                f"the clients had {self._requests} with {self._tokens}"
            )
        await self._stage.cluster.wait_until_logged(self._requests)


def _cpu_ns(target: Target) -> int:
    return 0 if target.family is None else target.family.cpu_ns()


def _kernel_ns(target: Target) -> int:
    return 0 if target.family is None else target.family.kernel_ns()


def _day() -> str:
    return datetime.now(UTC).date().isoformat()
