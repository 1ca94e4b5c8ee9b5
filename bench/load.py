"""What `bench/load.c` is told to do, and what it tells of it. Durations are seconds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec

from bench.build import built
from bench.processes import child

OPEN_SECONDS = 60.0
"""For all requests of a `hold` to be sent."""
LATE_SECONDS = 60.0
"""More than `bench/load.c` itself waits for the last answers."""


class Wrong(Exception):
    """Something was answered or counted wrongly: no figure of this run means anything."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of load; `bench/load.c` has the words."""

    kind: Literal["closed", "open", "hold"]
    connections: int
    seconds: float
    warm: float = 0.5
    rate: float = 0.0
    tokens: int = 0
    """Per stream; 0 for none."""
    interval_ms: int = 0
    usage: Literal[0, 1, 2] = 0
    """Of streams: not asked, asked, asked in each chunk."""


class Series(msgspec.Struct, frozen=True):
    """Nearest rank of what was seen."""

    count: int
    least: float
    p50: float
    p95: float
    p99: float
    most: float


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. Every request was answered, and well."""

    requests: int
    tokens: int
    rate: float
    """Answers per second after the warm-up."""
    token_rate: float
    """Tokens of streams per second after the warm-up."""
    latency: Series | None
    """Of whole answers and whole streams, from the planned beginning."""
    first: Series | None
    """To the first token of a stream, from the planned beginning."""
    transit: Series | None
    """Of a token, from the engine's write."""
    gap: Series | None
    """Between two tokens."""
    answered: Series | None
    """Only `hold`: when the answers came, on `time.monotonic`'s clock."""


class _Fault(msgspec.Struct, frozen=True):
    fault: str | None = None


async def played(cell: Cell, *, port: int, key: str, model: str, log: Path) -> LoadResult:
    """Run the cell; `Wrong` with what was wrong first."""
    async with playing(cell, port=port, key=key, model=model, log=log) as process:
        return await result(process, cell, log)


@asynccontextmanager
async def playing(
    cell: Cell, *, port: int, key: str, model: str, log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The load under way; `result` waits for its end."""
    words = [f"{name}={value}" for name, value in msgspec.structs.asdict(cell).items() if name != "kind"]
    to_whom = (f"port={port}", f"key={key}", f"model={model}")
    async with child(str(built("load")), cell.kind, *words, *to_whom, log=log) as process:
        yield process


async def all_open(process: asyncio.subprocess.Process, log: Path) -> int:
    """How many requests a `hold` has sent, once it has sent all."""
    line = await _line(process, OPEN_SECONDS, log)
    opened = msgspec.json.decode(line, type=dict[str, int | str])
    if not isinstance(number := opened.get("open"), int):
        raise Wrong(str(opened.get("fault")))
    return number


async def result(process: asyncio.subprocess.Process, cell: Cell, log: Path) -> LoadResult:
    line = await _line(process, cell.warm + cell.seconds + LATE_SECONDS, log)
    await process.wait()
    if fault := msgspec.json.decode(line, type=_Fault).fault:
        raise Wrong(fault)
    return msgspec.json.decode(line, type=LoadResult)


async def _line(process: asyncio.subprocess.Process, seconds: float, log: Path) -> bytes:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), seconds)
    except TimeoutError:
        raise Wrong(f"the load said nothing for {seconds:g} s") from None
    if not line:
        raise Wrong(f"the load has ended, see {log}")
    return line
