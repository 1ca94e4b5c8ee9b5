"""The command: measures, keeps the run, and publishes it when told to."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of

import click
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.bus.jetstream import JetStreamBus
from shared.config.load import environment
from shared.engine_keys import EngineKeys
from shared.errors import Misconfigured
from shared.ids import uuid7
from shared.messages.bench import BenchRun, Load
from spotinference.bench import run_store
from spotinference.bench.engine_version import named
from spotinference.bench.load import BenchFailed, Measured, measure, session_for, warmed
from spotinference.bench.statistics import added, side
from spotinference.bench.streamed_request import Target
from spotinference.bench.targets import Place, gateway_origin, model_of, place
from spotinference.bench.view import as_json, doubts, failures, listing, table
from spotinference.context import Context, suite_options
from spotinference.terminal import Screen, echo_json, say, show

KEY_VARIABLE = "SPOTINFERENCE_KEY"
ROUNDS = 4
"""At most: each has a request for each stream."""
PAIRS = 20
AFTER_CAP_SECONDS = 60.0
"""For the first answer of an engine that woke at the last moment."""


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
        kept = context.on_bus(run_store.runs)
        if json_wanted:
            echo_json({"runs": [as_json(run) for run in kept]})
        else:
            show(listing(kept))
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
        run = context.on_bus(way.run)
    except KeyboardInterrupt:
        stopped, run = True, way.figures()
    if json_wanted:
        echo_json(as_json(run, stopped=stopped))
    else:
        show(table(run))
    for doubt in doubts(run):
        say(f"spotinference: {doubt}", err=True)
    if stopped:
        done = run.gateway.requests + run.direct.requests
        raise BenchFailed(f"stopped after {done} of {2 * load.requests} requests: these figures are not kept")
    if publish and run.published_at is None:
        raise BenchFailed("not published: figures of a run with failures are none to show")


class Bench:
    """One run, as it was asked for."""

    def __init__(
        self,
        context: Context,
        model: str | None,
        load: Load,
        *,
        url: str | None,
        direct: str | None,
        machine: str | None,
        key: str | None,
        publish: bool,
    ) -> None:
        self._config = context.config()
        self._model = model_of(self._config, model)
        self._load = load
        key = key or environment(KEY_VARIABLE)
        if key is None:
            raise Misconfigured(f"no key: --key, {KEY_VARIABLE} or {KEY_VARIABLE}_FILE; `keys create` makes one")
        self._gateway = Target(origin=gateway_origin(context, url), model=self._model.name, key=key)
        self._direct, self._machine = direct, machine
        self._publish = publish
        self._found = Measured()
        self._conditions: _Conditions | None = None
        """Once there is something to measure."""

    async def run(self, bus: JetStreamBus) -> BenchRun:
        """Measure, and keep the run."""
        wait = self._config.gateway.hold_cap + AFTER_CAP_SECONDS
        async with session_for(self._load) as session:
            with _progress() as progress:
                progress.begin(f"waiting for {self._model.name}")
                load = await warmed(session, self._gateway, self._load, wait)
                # Now one is awake for sure.
                engine = await place(bus, self._model, machine=self._machine, direct=self._direct)
                direct = Target(
                    origin=engine.origin,
                    model=self._model.served_as or self._model.name,
                    key=EngineKeys(self._config).find(engine.machine, engine.origin) if engine.machine else None,
                )
                load = await warmed(session, direct, load, wait)
                self._conditions = _Conditions(load, engine, *await named(session, direct.origin))
                progress.begin("measuring", 2 * (load.requests + load.pairs))
                await measure(session, self._gateway, direct, load, self._found, on_shot=progress.advance)
        run = self.figures()
        if self._publish and not failures(run):
            run = msgspec.structs.replace(run, published_at=run.at)
        await run_store.keep(bus, run)
        return run

    def figures(self) -> BenchRun:
        """Of the requests that have ended; `BenchFailed` if none has."""
        found, conditions = self._found, self._conditions
        if conditions is None or not any((*found.gateway, *found.direct)):
            raise BenchFailed("stopped before anything was measured")
        now = time.time()
        return BenchRun(
            id=uuid7(now),
            at=now,
            model=self._model.name,
            tier=conditions.engine.tier,
            machine=conditions.engine.machine,
            machines=conditions.engine.ready,
            engine=conditions.name,
            engine_version=conditions.version,
            gateway_version=version_of("spotinference"),
            load=conditions.load,
            gateway=side(found.gateway, found.gateway_cpu),
            direct=side(found.direct, found.direct_cpu),
            added=added(found.pairs),
        )


@dataclass(frozen=True)
class _Conditions:
    """What is measured: the load as the engine takes it, where the engine is, what it calls itself."""

    load: Load
    engine: Place
    name: str
    version: str


class _Bar:
    """One line on a terminal's standard error: what is done, and how much of it."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def begin(self, what: str, total: int | None = None) -> None:
        self._bar.update(self._task, description=what, total=total)

    def advance(self) -> None:
        self._bar.advance(self._task)


@contextmanager
def _progress() -> Iterator[_Bar]:
    console = Screen(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield _Bar(bar)
