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
from spotinference.bench.engine_version import named
from spotinference.bench.load import BenchFailed, Measured, measure, session_for, warmed
from spotinference.bench.statistics import added, side
from spotinference.bench.streamed_request import Target
from spotinference.bench.targets import Place, gateway_origin, model_of, place
from spotinference.bench.view import failures
from spotinference.context import Context
from spotinference.terminal import Screen

KEY_VARIABLE = "SPOTINFERENCE_KEY"
AFTER_CAP_SECONDS = 60.0
"""For the first answer of an engine that woke at the last moment."""


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
