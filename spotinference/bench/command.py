"""The command `bench`."""

import click

from shared.errors import Misconfigured
from shared.messages.bench import Load
from spotinference.bench import run_store
from spotinference.bench.load import BenchFailed
from spotinference.bench.run import KEY_VARIABLE, Bench
from spotinference.bench.view import caveats, run_json, run_table, runs_table
from spotinference.context import Context, suite_options
from spotinference.terminal import echo_json, print_line, print_table

ROUNDS = 4
"""Rounds at most; each has at least one request per stream."""
PAIRS = 20


@click.command()
@click.option("--model", help="Model to measure.  [default: the only one]")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=8, show_default=True, help="Concurrent streams.")
@click.option(
    "--requests",
    type=click.IntRange(1, 100_000),
    default=64,
    show_default=True,
    help="Requests through the gateway, and as many directly.",
)
@click.option(
    "--prompt-tokens",
    type=click.IntRange(8, 100_000),
    default=100,
    show_default=True,
    help="Approximate tokens per prompt.",
)
@click.option(
    "--tokens", type=click.IntRange(2, 32_768), default=256, show_default=True, help="Maximum tokens per answer."
)
@click.option("--url", help="Origin of the gateway.  [default: the running one]")
@click.option("--direct", metavar="URL", help="Origin of the engine.  [default: a machine that serves the model]")
@click.option("--machine", metavar="ID", help="Machine whose engine is measured directly.")
@click.option("--key", help=f"API key.  [env: {KEY_VARIABLE}]")
@click.option("--publish", is_flag=True, help="Publish the figures of this run for its model and tier.")
@click.option("--list", "listed", is_flag=True, help="List earlier runs and measure nothing.")
@click.option("--json", "json_output", is_flag=True, help="Print one JSON object.")
@suite_options
def bench(
    context: Context,
    *,
    model: str | None,
    concurrency: int,
    requests: int,
    prompt_tokens: int,
    tokens: int,
    url: str | None,
    direct: str | None,
    machine: str | None,
    key: str | None,
    publish: bool,
    listed: bool,
    json_output: bool,
) -> None:
    """Measure tokens per second through the gateway and directly from the engine, in turn, under a fixed load.

    Ctrl-C stops the run and prints the figures so far, which are not stored. The exit status is 1 if the run was
    stopped, or if it could not be measured or published.
    """
    if listed:
        kept = context.run_with_bus(run_store.list_runs)
        if json_output:
            echo_json({"runs": [run_json(run) for run in kept]})
        else:
            print_table(runs_table(kept))
        return
    if direct is not None and machine is not None:
        raise Misconfigured("--direct and --machine cannot be combined: each selects the engine")
    load = Load(
        concurrency=concurrency,
        requests=requests,
        rounds=max(1, min(ROUNDS, requests // concurrency)),
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        ignore_eos=True,
        pairs=PAIRS,
    )
    bench_run = Bench(context, model, load, url=url, direct=direct, machine=machine, key=key, publish=publish)
    stopped = False
    try:
        run = context.run_with_bus(bench_run.run)
    except KeyboardInterrupt:
        stopped, run = True, bench_run.figures()
    if json_output:
        echo_json(run_json(run, stopped=stopped))
    else:
        print_table(run_table(run))
    for caveat in caveats(run):
        print_line(f"spotinference: {caveat}", err=True)
    if stopped:
        done = run.gateway.requests + run.direct.requests
        raise BenchFailed(f"stopped after {done} of {2 * load.requests} requests; these figures are not stored")
    if publish and run.published_at is None:
        raise BenchFailed("not published: the run has failed requests")
