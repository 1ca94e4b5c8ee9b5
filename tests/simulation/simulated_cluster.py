"""A whole cluster in simulated time: the waker's real core, gateways with the real scheduler, and a slow bus.

Nothing really waits: there is one queue of due events. A message to the waker may be late by seconds, arrive twice or
never; records reach each gateway late and in order, as with a watch.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from typing import NamedTuple

from services.gateway.adapters.activity_reporter import PERIOD_SECONDS, QUIET_SECONDS
from services.gateway.core.scheduler import RequestScheduler
from services.gateway.core.waiting_queue import Ticket
from services.waker.core.adopt import PersistedState, adopt
from services.waker.core.events import (
    ActivityReported,
    Called,
    CountRequests,
    DemandReported,
    Effect,
    Event,
    Journal,
    Observation,
    Observe,
    Observed,
    Probe,
    Probed,
    RecordWritten,
    Remember,
    RequestsCounted,
    StartMachine,
    StopMachine,
    Tested,
    TestProvider,
    Tick,
    Write,
)
from services.waker.core.fleet import handle
from services.waker.core.fleet_spec import fleet_spec_of
from services.waker.core.state import Fleet
from shared.config.load import parse
from shared.config.sections import Config
from shared.messages.gateway import Activity, WakeRequest
from shared.messages.waker import MachineMemory, MachineRecord, OperatorWakesMemory, TierMemory, Transition

TICK_SECONDS = 1.0
"""A waker's own is a quarter of that: fewer make more cycles in the time of a test, and messages move it as well."""
WAKE_REPEAT = 5.0
CAP = 600.0
CONFIG = """
[waker]
idle_timeout = "1s"
"""
PART = """
[[tier]]
name = "t-{name}"
provider = "process"
max_concurrency = 4
[[machine]]
id = "{name}"
tier = "t-{name}"
command = ["engine", "{{port}}"]
[[model]]
name = "{name}"
lineup = ["t-{name}"]
"""


def config_of(machines: int) -> Config:
    """Machine `m1` serves model `m1`, and so on."""
    parts = [PART.format(name=f"m{number + 1}") for number in range(machines)]
    return parse(CONFIG + "".join(parts), "simulation")


class Due(NamedTuple):
    at: float
    number: int
    do: Callable[[], None]


@dataclass
class Engine:
    """What really runs on a machine."""

    generation: int = 0
    running: bool = False
    ends: bool = False
    """It was told to stop."""


@dataclass(eq=False)
class Gateway:
    """A gateway with the real scheduler, which reports as `ActivityReporter` and `Demand` do."""

    name: str
    cluster: "SimulatedCluster"
    view: dict[str, MachineRecord] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    received_until: float = 0.0
    reporting: bool = False
    demanded: set[str] = field(default_factory=set)
    """Models whose demand was reported and not withdrawn."""

    def __post_init__(self) -> None:
        self.scheduler = RequestScheduler(self.cluster.config, self.view)

    def receive(self, record: MachineRecord, revision: int) -> None:
        self.view[record.machine], self.revisions[record.machine] = record, revision
        self.scheduler.dispatch(self.cluster.now, 1000)
        self.changed()

    def changed(self) -> None:
        """Report soon; what changes until then is part of the report."""
        if not self.reporting:
            self.reporting = True
            self.cluster.later(QUIET_SECONDS, self.report)

    def report(self) -> None:
        self.reporting = False
        machines = self.scheduler.activity(self.revisions.__getitem__, self.cluster.now)
        self.cluster.to_waker(
            ActivityReported(Activity(gateway=self.name, sent_at=self.cluster.now, machines=machines))
        )

    def period(self) -> None:
        self.report()
        self.cluster.later(PERIOD_SECONDS, self.period)

    def request(self, model: str, seconds: float, answered: Callable[[], None]) -> None:
        """One request that keeps an engine busy for so long."""
        if record := self.scheduler.try_acquire(model, "key", self.cluster.now):
            self.serve(model, seconds, answered, record)
            return
        now = self.cluster.now
        grant = partial(self._granted, model, seconds, answered)
        self.scheduler.enqueue(
            Ticket(model, "key", f"r{next(self.cluster.numbers)}", now + CAP, grant, lambda _error: None)
        )
        self.demand(model)

    def _granted(self, model: str, seconds: float, answered: Callable[[], None], record: MachineRecord) -> None:
        self.serve(model, seconds, answered, record)
        self.cluster.later(0.0, partial(self.demand, model))

    def demand(self, model: str) -> None:
        """Report demand when it begins and ends, and every few seconds in between."""
        if self.scheduler.has_waiting(model) != (model in self.demanded):
            self._send_demand(model)

    def _repeat(self, model: str) -> None:
        if model in self.demanded and self.scheduler.has_waiting(model):
            self._send_demand(model)

    def _send_demand(self, model: str) -> None:
        waiting, now = len(list(self.scheduler.waiting(model))), self.cluster.now
        if waiting:
            self.demanded.add(model)
            self.cluster.later(WAKE_REPEAT, partial(self._repeat, model))
        else:
            self.demanded.discard(model)
        request = WakeRequest(model=model, gateway=self.name, waiting=waiting, deadline=now + CAP, sent_at=now)
        self.cluster.to_waker(DemandReported(request, now))

    def serve(self, model: str, seconds: float, answered: Callable[[], None], record: MachineRecord) -> None:
        engine = self.cluster.engines[record.machine]
        assert engine.running, f"a request for {record.machine} met no engine"
        assert not engine.ends, f"a request for {record.machine} met an engine that was told to end"
        self.cluster.later(seconds, partial(self._served, model, record.machine, engine, answered))

    def _served(self, model: str, machine: str, engine: Engine, answered: Callable[[], None]) -> None:
        assert engine is self.cluster.engines[machine], "the engine was another at the end"
        assert engine.running, "the engine had gone"
        assert not engine.ends, "the engine was told to end"
        last = self.scheduler.release(machine, self.cluster.now)
        self.scheduler.dispatch(self.cluster.now, 1000)
        if last:
            self.changed()
        answered()


class SimulatedCluster:
    """Call `run`. `stops` counts the machines that fell asleep after a drain."""

    def __init__(self, seed: int, *, machines: int = 1, gateways: int = 3) -> None:
        self.chance = random.Random(seed)
        self.now = 1_000_000.0
        self.numbers = itertools.count()
        self._queue: list[Due] = []
        self.config = config_of(machines)
        self.spec = fleet_spec_of(self.config, lambda _now: f"wake-{next(self.numbers)}")
        self.engines = {name: Engine() for name in self.spec.machines}
        self.bucket: dict[str, tuple[MachineRecord, int]] = {}
        self.memories: dict[str, MachineMemory | TierMemory | OperatorWakesMemory] = {}
        self.revision = 0
        self.term = 0
        """Rises with each leader and with each leader's death: what an earlier one waits for comes to nobody."""
        self.leading = False
        self.stops = 0
        self.starts = 0
        self.called_off = 0
        """Drains that ended with the machine ready again."""
        self.gateways = [Gateway(f"g{number}", self) for number in range(gateways)]
        for gateway in self.gateways:
            self.later(self.chance.uniform(0.0, PERIOD_SECONDS), gateway.period)
        self.fleet = Fleet(spec=self.spec, leading_since=self.now, machines={})
        self.leads()

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        heappush(self._queue, Due(self.now + seconds, next(self.numbers), do))

    def run(self, going: Callable[[], bool]) -> None:
        while going():
            due = heappop(self._queue)
            self.now = due.at
            due.do()

    def lag(self) -> float:
        """Seconds of delay: usually negligible, now and then seconds."""
        kind = self.chance.random()
        return self.chance.uniform(0.001, 0.03 if kind < 0.85 else 1.0 if kind < 0.97 else 3.0)

    def to_waker(self, event: Event) -> None:
        kind = self.chance.random()
        for _ in range(0 if kind < 0.01 else 2 if kind < 0.03 else 1):
            self.later(self.lag(), partial(self.handle, event))

    def handle(self, event: Event) -> None:
        if self.leading:
            if isinstance(event, DemandReported):
                event = DemandReported(event.request, self.now)
            self.fleet, effects = handle(self.fleet, event, self.now)
            self._done(effects)

    def leads(self) -> None:
        """Begin a leader's term with the buckets and an observation."""
        self.term += 1
        self.leading = True
        memories = self.memories.values()
        left = PersistedState(
            records=dict(self.bucket),
            machines={m.machine: m for m in memories if isinstance(m, MachineMemory)},
            tiers={m.tier: m for m in memories if isinstance(m, TierMemory)},
        )
        self.fleet, effects = adopt(self.spec, left, {"process": self.observe(self.now)}, self.now, closed=frozenset())
        self._done(effects)
        self._tick(self.term)

    def dies(self, seconds: float) -> None:
        """Kill the leader; the next one begins after `seconds`."""
        self.term += 1
        self.leading = False
        self.later(seconds, self.leads)

    def observe(self, requested_at: float) -> Observed:
        return Observed(
            provider="process",
            requested_at=requested_at,
            observations={name: self._observation(name) for name in self.engines},
        )

    def _observation(self, name: str) -> Observation:
        engine = self.engines[name]
        if not engine.running:
            return Observation(
                power="stopped", provider_state="stopped", generation=engine.generation, ended_at=self.now
            )
        return Observation(
            power="stopping" if engine.ends else "running",
            provider_state="stopping" if engine.ends else "running",
            generation=engine.generation,
            endpoint=f"http://{name}:{engine.generation}",
        )

    def _tick(self, term: int) -> None:
        if term == self.term:
            self.handle(Tick())
            self.later(TICK_SECONDS, partial(self._tick, term))

    def _answer(self, seconds: float, event: Callable[[], Event]) -> None:
        """Compute a call's result when it is due, for the leader that made it, if it still leads."""
        term = self.term

        def handle() -> None:
            result = event()
            if term == self.term:
                self.handle(result)

        self.later(seconds, handle)

    def _done(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Journal(Transition(from_state="draining", to_state="ready")):
                    self.called_off += 1
                case Write(record):
                    self._write(record)
                case Remember(MachineMemory(machine=machine) as memory):
                    self.memories[f"machine {machine}"] = memory
                case Remember(TierMemory(tier=tier) as memory):
                    self.memories[f"tier {tier}"] = memory
                case Remember() | Journal():
                    pass
                case _:
                    self._call(effect)

    def _write(self, record: MachineRecord) -> None:
        self.revision += 1
        self.bucket[record.machine] = (record, self.revision)
        for gateway in self.gateways:
            gateway.received_until = max(gateway.received_until, self.now + self.lag())
            receive = partial(gateway.receive, record, self.revision)
            self.later(gateway.received_until - self.now, receive)
        self.later(0.0, partial(self._written, self.term, RecordWritten(record, self.revision)))

    def _written(self, term: int, event: RecordWritten) -> None:
        if term == self.term:
            self.handle(event)

    def _call(self, effect: Effect) -> None:
        chance = self.chance
        match effect:
            case StartMachine(machine, serial, generation):
                self.starts += 1
                self._answer(chance.uniform(0.05, 0.3), lambda: self._started(machine, serial, generation))
            case StopMachine(machine, serial):
                self._stopping(machine)
                stopped = Called(machine=machine, call="stop", serial=serial, outcome="accepted", seconds=0.0)
                self._answer(0.01, lambda: stopped)
            case Observe():
                requested_at = self.now
                self._answer(chance.uniform(0.001, 0.05), lambda: self.observe(requested_at))
            case Probe():
                self._answer(chance.uniform(0.001, 0.05), lambda: self._probed(effect))
            case CountRequests(machine, serial):
                self._answer(chance.uniform(0.001, 0.05), lambda: self._counted(machine, serial))
            case TestProvider(provider):
                self._answer(0.01, lambda: Tested(provider=provider, faults=()))
            case _:
                raise TypeError(effect)

    def _started(self, machine: str, serial: int, generation: int) -> Called:
        known = self.engines[machine]
        if known.running:
            return Called(machine=machine, call="start", serial=serial, outcome="unknown", seconds=0.1, code="running")
        self.engines[machine] = Engine(generation, running=True)
        endpoint = f"http://{machine}:{generation}"
        return Called(machine=machine, call="start", serial=serial, outcome="accepted", seconds=0.1, endpoint=endpoint)

    def _stopping(self, machine: str) -> None:
        """Check that no gateway has a request on the machine that is being stopped."""
        busy = [gateway.name for gateway in self.gateways if gateway.scheduler.in_flight(machine)]
        assert not busy, f"the stop of {machine} met requests of {busy}"
        engine = self.engines[machine]
        if engine.running and not engine.ends:
            engine.ends = True
            self.stops += 1
            self.later(self.chance.uniform(0.02, 1.0), partial(self._ended, engine))

    def _ended(self, engine: Engine) -> None:
        engine.running = False

    def _counted(self, machine: str, serial: int) -> RequestsCounted:
        running = sum(gateway.scheduler.in_flight(machine) for gateway in self.gateways)
        return RequestsCounted(machine=machine, serial=serial, running=running, answered=True, seconds=0.01)

    def _probed(self, probe: Probe) -> Probed:
        engine = self.engines[probe.machine]
        answered = engine.running and probe.endpoint == f"http://{probe.machine}:{engine.generation}"
        return Probed(
            machine=probe.machine, serial=probe.serial, step=probe.step, answered=answered, seconds=0.01, tokens=1
        )
