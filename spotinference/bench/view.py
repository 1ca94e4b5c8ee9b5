"""A run as a table, and all runs as one."""

from collections.abc import Sequence

import msgspec
from rich.table import Table

from shared.messages.bench import BenchRun, Side
from shared.messages.codec import rfc3339
from shared.messages.meter_figures import Spread

BUSY_CLIENT = 0.8
"""Of a core: from here on the client's own work shows in what it measures."""


def as_json(run: BenchRun, *, stopped: bool = False) -> dict[str, object]:
    """The message, with times as text. `stopped`: by Ctrl-C, so that it is of fewer requests than the load says."""
    published = None if run.published_at is None else rfc3339(run.published_at)
    told: dict[str, object] = msgspec.to_builtins(run)
    told.pop("type")
    return {**told, "at": rfc3339(run.at), "published_at": published, "stopped": stopped}


def table(run: BenchRun) -> Table:
    load = run.load
    title = f"{run.model} on {run.machine or 'the engine given'}, {rfc3339(run.at)}"
    caption = (
        f"{load.concurrency} streams at once, {load.requests} requests each way in {load.rounds} rounds by turns, "
        f"prompts of about {load.prompt_tokens} tokens, answers of up to {load.tokens}"
        f"{'' if load.ignore_eos else ' (fewer where the model ends)'}, temperature 0; "
        f"engine {run.engine or '?'} {run.engine_version or '?'}, gateway {run.gateway_version or '?'}"
    )
    made = Table("", "gateway", "direct", title=title, caption=caption, caption_justify="left")
    made.add_row("output tokens/s, all streams", *(f"{s.rate:,.1f}" for s in (run.gateway, run.direct)))
    for name, of, scale in (
        ("output tokens/s, a stream", "stream_rate", 1.0),
        ("first token, ms", "ttft", 1000.0),
        ("per token, ms", "tpot", 1000.0),
    ):
        cells = [_spread(getattr(side, of), scale) for side in (run.gateway, run.direct)]
        made.add_row(f"{name}, p50 / p95 / p99", *cells)
    made.add_row("requests, failed", *(f"{s.requests}, {s.failed}" for s in (run.gateway, run.direct)))
    if run.added is not None:
        made.add_section()
        made.add_row(f"added to the first token, ms, of {run.added.count} pairs", _spread(run.added, 1000.0), "")
    return made


def doubts(run: BenchRun) -> list[str]:
    """What a reader of the figures has to know."""
    found = []
    if run.machines > 1:
        found.append(f"{run.machines} machines serve {run.model}: the gateway spread the load, the direct way did not")
    if max(run.gateway.client_cpu, run.direct.client_cpu) > BUSY_CLIENT:
        found.append("the client's core was busy: the figures are the client's too; ask for fewer streams")
    if failures(run):
        found.append(f"{failures(run)} requests failed")
    return found


def failures(run: BenchRun) -> int:
    return run.gateway.failed + run.direct.failed


def listing(runs: Sequence[BenchRun]) -> Table:
    made = Table("run", "at", "model", "tier", "engine", "streams", "tokens/s", "direct", "added ms p50", "published")
    for run in runs:
        made.add_row(
            run.id,
            rfc3339(run.at)[:16],
            run.model,
            run.tier or "",
            f"{run.engine} {run.engine_version}".strip(),
            str(run.load.concurrency),
            _rate(run.gateway),
            _rate(run.direct),
            f"{run.added.p50 * 1000:.2f}" if run.added else "",
            "" if run.published_at is None else rfc3339(run.published_at)[:16],
        )
    return made


def _rate(side: Side) -> str:
    return f"{side.rate:,.1f}"


def _spread(spread: Spread | None, scale: float) -> str:
    if spread is None:
        return "none"
    return " / ".join(f"{value * scale:.4g}" for value in (spread.p50, spread.p95, spread.p99))
