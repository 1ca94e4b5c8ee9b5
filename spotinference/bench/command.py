"""The command: measures, keeps the run, and publishes it when told to."""

import click

from shared.errors import Misconfigured
from shared.messages.bench import Load
from spotinference.bench import run_store
from spotinference.bench.load import BenchFailed
from spotinference.bench.run import KEY_VARIABLE, Bench
from spotinference.bench.view import as_json, doubts, listing, table
from spotinference.context import Context, suite_options
from spotinference.terminal import echo_json, print_line, print_table

ROUNDS = 4
"""At most: each has a request for each stream."""
PAIRS = 20


@click.command()
@click.option("--model", help="The model.  [default: the only one]")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=8, show_default=True, help="Concurrent streams.")
@click.option("--requests", type=click.IntRange(1, 100_000), default=64, show_default=True, help="Requests each way.")
@click.option(
    "--prompt-tokens",
    type=click.IntRange(8, 100_000),
    default=100,
    show_default=True,
    help="Tokens of a prompt, roughly.",
)
@click.option(
    "--tokens", type=click.IntRange(2, 32_768), default=256, show_default=True, help="Tokens of an answer, at most."
)
@click.option("--url", help="The gateway's origin.  [default: the running suite's]")
@click.option("--direct", metavar="URL", help="The engine's origin.  [default: a machine's that serves the model]")
@click.option("--machine", metavar="ID", help="The machine whose engine is asked directly.")
@click.option("--key", help=f"An API key.  [{KEY_VARIABLE}]")
@click.option("--publish", is_flag=True, help="Show this run's figures for its model and tier.")
@click.option("--list", "listed", is_flag=True, help="Measure nothing; list the runs that were kept.")
@click.option("--json", "json_wanted", is_flag=True, help="One JSON object.")
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
    json_wanted: bool,
) -> None:
    """Measure tokens per second through the gateway and directly from the engine, in turn, under a stated load.

    Ctrl-C stops it and prints the figures so far, which are not kept. The exit status is 1 if it was stopped, or if the
    run could not be measured or published.
    """
    if listed:
        kept = context.run_with_bus(run_store.runs)
        if json_wanted:
            echo_json({"runs": [as_json(run) for run in kept]})
        else:
            print_table(listing(kept))
        return
    if direct is not None and machine is not None:
        raise Misconfigured("--direct and --machine: each names the engine: give one of them")
    load = Load(
        concurrency=concurrency,
        requests=requests,
        rounds=max(1, min(ROUNDS, requests // concurrency)),
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        ignore_eos=True,
        pairs=PAIRS,
    )
    way = Bench(context, model, load, url=url, direct=direct, machine=machine, key=key, publish=publish)
    stopped = False
    try:
        run = context.run_with_bus(way.run)
    except KeyboardInterrupt:
        stopped, run = True, way.figures()
    if json_wanted:
        echo_json(as_json(run, stopped=stopped))
    else:
        print_table(table(run))
    for doubt in doubts(run):
        print_line(f"spotinference: {doubt}", err=True)
    if stopped:
        done = run.gateway.requests + run.direct.requests
        raise BenchFailed(f"stopped after {done} of {2 * load.requests} requests: these figures are not kept")
    if publish and run.published_at is None:
        raise BenchFailed("not published: figures of a run with failures are none to show")
