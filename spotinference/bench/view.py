"""Runs as tables and as JSON."""

from collections.abc import Sequence

import msgspec
from rich.table import Table

from shared.messages.bench import BenchRun, Side
from shared.messages.codec import rfc3339
from shared.messages.meter_figures import Spread

BUSY_CLIENT = 0.8
"""The part of a core above which the client's own work affects the figures."""


def run_json(run: BenchRun, *, stopped: bool = False) -> dict[str, object]:
    """Return the run with times as text. `stopped`: by Ctrl-C, so it has fewer requests than its load."""
    published = None if run.published_at is None else rfc3339(run.published_at)
    fields: dict[str, object] = msgspec.to_builtins(run)
    fields.pop("type")
    return {**fields, "at": rfc3339(run.at), "published_at": published, "stopped": stopped}


def run_table(run: BenchRun) -> Table:
    load = run.load
    title = f"{run.model} on {run.machine or 'the given engine'}, {rfc3339(run.at)}"
    caption = (
        f"{load.concurrency} concurrent streams, {load.requests} requests each way, {load.rounds} alternating rounds, "
        f"prompts of about {load.prompt_tokens} tokens, answers of up to {load.tokens}"
        f"{'' if load.ignore_eos else ' (fewer if the model stops)'}, temperature 0; "
        f"engine {run.engine or '?'} {run.engine_version or '?'}, gateway {run.gateway_version or '?'}"
    )
    table = Table("", "gateway", "direct", title=title, caption=caption, caption_justify="left")
    table.add_row("output tokens/s, all streams", *(f"{s.rate:,.1f}" for s in (run.gateway, run.direct)))
    for name, of, scale in (
        ("output tokens/s per stream", "stream_rate", 1.0),
        ("time to first token, ms", "ttft", 1000.0),
        ("time per token, ms", "tpot", 1000.0),
    ):
        cells = [_spread(getattr(side, of), scale) for side in (run.gateway, run.direct)]
        table.add_row(f"{name}, p50 / p95 / p99", *cells)
    table.add_row("requests, failed", *(f"{s.requests}, {s.failed}" for s in (run.gateway, run.direct)))
    if run.added is not None:
        table.add_section()
        table.add_row(f"added to the first token, ms, in {run.added.count} pairs", _spread(run.added, 1000.0), "")
    return table


def caveats(run: BenchRun) -> list[str]:
    """Return warnings for whoever reads the figures."""
    texts = []
    if run.machines > 1:
        texts.append(
            f"{run.machines} machines serve {run.model}: the gateway used all of them, the direct requests one"
        )
    if max(run.gateway.client_cpu, run.direct.client_cpu) > BUSY_CLIENT:
        texts.append("the client's CPU core was busy, which affects the figures: use a lower --concurrency")
    if failures(run):
        texts.append(f"{failures(run)} requests failed")
    return texts


def failures(run: BenchRun) -> int:
    return run.gateway.failed + run.direct.failed


def runs_table(runs: Sequence[BenchRun]) -> Table:
    table = Table("run", "at", "model", "tier", "engine", "streams", "tokens/s", "direct", "added ms p50", "published")
    for run in runs:
        table.add_row(
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
    return table


def _rate(side: Side) -> str:
    return f"{side.rate:,.1f}"


def _spread(spread: Spread | None, scale: float) -> str:
    if spread is None:
        return "none"
    return " / ".join(f"{value * scale:.4g}" for value in (spread.p50, spread.p95, spread.p99))
