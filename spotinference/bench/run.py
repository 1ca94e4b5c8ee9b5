"""One run of the benchmark."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.bus.jetstream import JetStreamBus
from shared.config.load import environment
from shared.engine_keys import EngineKeys
from shared.errors import Misconfigured
from shared.ids import uuid7
from shared.messages.bench import BenchRun, Load
from spotinference.bench import run_store
from spotinference.bench.engine_version import identify_engine
from spotinference.bench.load import BenchFailed, Measurements, measure, session_for, warm_up
from spotinference.bench.statistics import added_latency, summarize_side
from spotinference.bench.streamed_request import Target
from spotinference.bench.targets import EngineLocation, gateway_origin, locate_engine, select_model
from spotinference.bench.view import failures
from spotinference.context import Context
from spotinference.terminal import Screen

KEY_VARIABLE = "SPOTINFERENCE_KEY"
AFTER_CAP_SECONDS = 60.0
"""For the first answer of an engine that became ready at the last moment."""


class Bench:
    """One run with its options."""

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
        self._model = select_model(self._config, model)
        self._load = load
        key = key or environment(KEY_VARIABLE)
        if key is None:
            raise Misconfigured(
                f"no API key: pass --key or set {KEY_VARIABLE} or {KEY_VARIABLE}_FILE; see `spotinference keys create`"
            )
        self._gateway = Target(origin=gateway_origin(context, url), model=self._model.name, key=key)
        self._direct, self._machine = direct, machine
        self._publish = publish
        self._measurements = Measurements()
        self._conditions: _Conditions | None = None
        """Set once measuring begins."""

    async def run(self, bus: JetStreamBus) -> BenchRun:
        """Measure, and store the run."""
        wait = self._config.gateway.hold_cap + AFTER_CAP_SECONDS
        async with session_for(self._load) as session:
            with _progress() as progress:
                progress.begin(f"waiting for {self._model.name}")
                load = await warm_up(session, self._gateway, self._load, wait)
                # Now at least one machine is awake.
                engine = await locate_engine(bus, self._model, machine=self._machine, direct=self._direct)
                direct = Target(
                    origin=engine.origin,
                    model=self._model.served_as or self._model.name,
                    key=EngineKeys(self._config).find(engine.machine, engine.origin) if engine.machine else None,
                )
                load = await warm_up(session, direct, load, wait)
                self._conditions = _Conditions(load, engine, *await identify_engine(session, direct.origin))
                progress.begin("measuring", 2 * (load.requests + load.pairs))
                await measure(session, self._gateway, direct, load, self._measurements, on_request=progress.advance)
        run = self.figures()
        if self._publish and not failures(run):
            run = msgspec.structs.replace(run, published_at=run.at)
        await run_store.store_run(bus, run)
        return run

    def figures(self) -> BenchRun:
        """Return the figures of the requests that have ended. Raises `BenchFailed` if none has."""
        measured, conditions = self._measurements, self._conditions
        if conditions is None or not any((*measured.gateway, *measured.direct)):
            raise BenchFailed("stopped before anything was measured")
        now = time.time()
        return BenchRun(
            id=uuid7(now),
            at=now,
            model=self._model.name,
            tier=conditions.engine.tier,
            machine=conditions.engine.machine,
            machines=conditions.engine.ready_machines,
            engine=conditions.name,
            engine_version=conditions.version,
            gateway_version=version_of("spotinference"),
            load=conditions.load,
            gateway=summarize_side(measured.gateway, measured.gateway_cpu),
            direct=summarize_side(measured.direct, measured.direct_cpu),
            added=added_latency(measured.pairs),
        )


@dataclass(frozen=True)
class _Conditions:
    """What is measured: the load as the engine accepts it, where the engine is, and what it calls itself."""

    load: Load
    engine: EngineLocation
    name: str
    version: str


class _Bar:
    """A progress line on standard error, if that is a terminal."""

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
