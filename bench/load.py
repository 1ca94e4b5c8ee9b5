"""Runs the load generator `bench/load.c`, and reads its results. Durations are seconds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec

from bench.build import compile_program
from bench.processes import child

OPEN_SECONDS = 60.0
"""Time to send all requests of a `hold`."""
LATE_SECONDS = 60.0
"""More than `bench/load.c` itself waits for the last answers."""


class BenchmarkFailed(Exception):
    """A response or a count was wrong, so no figure of the run is valid."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of load; `bench/load.c` explains the fields."""

    kind: Literal["closed", "open", "hold"]
    connections: int
    seconds: float
    warm: float = 0.5
    rate: float = 0.0
    tokens: int = 0
    """Per stream; 0 for none."""
    interval_ms: int = 0
    usage: Literal[0, 1, 2] = 0
    """Usage in streams: not requested, at the end, in each chunk."""


class Series(msgspec.Struct, frozen=True):
    """Nearest-rank percentiles of the measured values."""

    count: int
    least: float
    p50: float
    p95: float
    p99: float
    most: float


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the load measured. Every request got a correct response."""

    requests: int
    tokens: int
    rate: float
    """Answers per second after the warm-up."""
    token_rate: float
    """Tokens of streams per second after the warm-up."""
    latency: Series | None
    """Of complete responses and streams, from the planned start."""
    first: Series | None
    """To the first token of a stream, from the planned start."""
    transit: Series | None
    """Of a token, from the engine's write."""
    gap: Series | None
    """Between two tokens."""
    answered: Series | None
    """Only `hold`: when the responses arrived, on `time.monotonic`'s clock."""


class _Fault(msgspec.Struct, frozen=True):
    fault: str | None = None


async def run_load(cell: Workload, *, port: int, key: str, model: str, log: Path) -> LoadResult:
    """Run the cell; `BenchmarkFailed` with what was wrong first."""
    async with running_load(cell, port=port, key=key, model=model, log=log) as process:
        return await read_result(process, cell, log)


@asynccontextmanager
async def running_load(
    cell: Workload, *, port: int, key: str, model: str, log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The load under way; `read_result` waits for its end."""
    words = [f"{name}={value}" for name, value in msgspec.structs.asdict(cell).items() if name != "kind"]
    to_whom = (f"port={port}", f"key={key}", f"model={model}")
    async with child(str(compile_program("load")), cell.kind, *words, *to_whom, log=log) as process:
        yield process


async def wait_all_open(process: asyncio.subprocess.Process, log: Path) -> int:
    """Wait until a `hold` has sent all its requests; return how many."""
    line = await _line(process, OPEN_SECONDS, log)
    opened = msgspec.json.decode(line, type=dict[str, int | str])
    if not isinstance(number := opened.get("open"), int):
        raise BenchmarkFailed(str(opened.get("fault")))
    return number


async def read_result(process: asyncio.subprocess.Process, cell: Workload, log: Path) -> LoadResult:
    line = await _line(process, cell.warm + cell.seconds + LATE_SECONDS, log)
    await process.wait()
    if fault := msgspec.json.decode(line, type=_Fault).fault:
        raise BenchmarkFailed(fault)
    return msgspec.json.decode(line, type=LoadResult)


async def _line(process: asyncio.subprocess.Process, seconds: float, log: Path) -> bytes:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), seconds)
    except TimeoutError:
        raise BenchmarkFailed(f"the load generator printed nothing for {seconds:g} s") from None
    if not line:
        raise BenchmarkFailed(f"the load generator has ended: see {log}")
    return line
