"""Whatever order events come in, late, doubled or lost, over jumps of the clock and deaths of the waker: it holds."""

from dataclasses import dataclass, replace

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.waker.core.events import (
    ActivityReported,
    Called,
    DemandReported,
    Effect,
    Event,
    Observation,
    Observe,
    Observed,
    Probe,
    Probed,
    StartMachine,
    StopMachine,
)
from services.waker.core.fleet_spec import FleetSpec
from services.waker.core.unready import backoff_s
from shared.messages.gateway import Activity, MachineActivity, WakeRequest
from tests.unit.waker.fleets import CAP, World, invariants, spec

MACHINES = ("a1", "a2", "b1")
GATEWAYS = ("g1", "g2")
BEAT_SECONDS = 4.0
"""How often all speak that is left in peace: two times before a gateway counts as silent, since an hour may pass."""


@dataclass
class Engine:
    """What really runs: at most one engine for each machine, as the keeper's lock has it."""

    generation: int = 0
    running: bool = False
    answers: bool = False


def _paired() -> FleetSpec:
    """Machines a2 and b1 share GPUs."""
    whole = spec()
    pair = {name: replace(whole.machines[name], pair="p") for name in ("a2", "b1")}
    return replace(whole, machines={**whole.machines, **pair})


class Fleet(RuleBasedStateMachine):
    """The world's truth beside what the waker thinks of it."""

    @initialize(paired=st.booleans())
    def begin(self, paired: bool) -> None:
        self.world = World(spec=_paired() if paired else spec(), now=1_000_000.0, blind=False)
        self.whole = self.world.spec
        self.engines = {name: Engine() for name in MACHINES}
        self.in_flight = dict.fromkeys([(g, m) for g in GATEWAYS for m in MACHINES], 0)
        self.last_used: dict[tuple[str, str], float] = {}
        self.handled: list[Event] = []
        """What was told once and may come again."""

    def handle(self, event: Event) -> None:
        self.handled = [*self.handled[-20:], event]
        self.world.handle(event)

    def observation(self, name: str) -> Observation:
        engine = self.engines[name]
        return Observation(
            power="running" if engine.running else "stopped",
            provider_state="running" if engine.running else "stopped",
            generation=engine.generation,
            endpoint=f"http://{name}:{engine.generation}" if engine.running else None,
        )

    # The world moves.

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0, 20.0]), ticks=st.booleans())
    def time_passes(self, seconds: float, ticks: bool) -> None:
        self.world.pass_time(seconds, step=1.0 if ticks else seconds)

    @rule(closed=st.sampled_from([(), ("a",), ("b",), ("a", "b")]))
    def a_budget_gate_turns(self, closed: tuple[str, ...]) -> None:
        self.world.gates(*closed)

    @rule(seconds=st.sampled_from([60.0, 3600.0]))
    def the_waker_sleeps(self, seconds: float) -> None:
        """As a machine does that is suspended."""
        self.world.now += seconds

    @rule(seconds=st.sampled_from([-3600.0, 3600.0]))
    def the_clock_is_set(self, seconds: float) -> None:
        """A leader's clock is steady; the next term begins with the system's."""
        self.world.now += seconds
        self.last_used = {key: at + min(seconds, 0.0) for key, at in self.last_used.items()}
        self.the_waker_dies()

    @rule(name=st.sampled_from(MACHINES))
    def an_engine_dies(self, name: str) -> None:
        self.engines[name].running = False

    @rule(name=st.sampled_from(MACHINES))
    def an_engine_has_loaded(self, name: str) -> None:
        self.engines[name].answers = self.engines[name].running

    # Gateways speak.

    @rule(model=st.sampled_from(["m", "n"]), gateway=st.sampled_from(GATEWAYS), waiting=st.integers(0, 2))
    def a_gateway_wants(self, model: str, gateway: str, waiting: int) -> None:
        now = self.world.now
        request = WakeRequest(model=model, gateway=gateway, waiting=waiting, deadline=now + CAP, sent_at=now)
        self.handle(DemandReported(request, now))

    @rule(name=st.sampled_from(MACHINES), gateway=st.sampled_from(GATEWAYS), change=st.sampled_from([1, -1]))
    def a_request_begins_or_ends(self, name: str, gateway: str, change: int) -> None:
        """A gateway sends requests to what the bucket calls ready, and to nothing else."""
        record = self.world.bucket.get(name)
        key = (gateway, name)
        if change > 0 and record is not None and record[0].state == "ready" and self.engines[name].running:
            self.in_flight[key] += 1
            self.last_used[key] = self.world.now
        elif change < 0 and self.in_flight[key]:
            self.in_flight[key] -= 1
            self.last_used[key] = self.world.now
        # It says so at once.
        self.a_gateway_reports(gateway, leaving=False)

    @rule(gateway=st.sampled_from(GATEWAYS), leaving=st.booleans())
    def a_gateway_reports(self, gateway: str, leaving: bool) -> None:
        uses = {}
        for name, (record, revision) in self.world.bucket.items():
            busy = self.in_flight[gateway, name]
            acknowledged = revision if record.state == "draining" and not busy else None
            last = self.last_used.get((gateway, name))
            uses[name] = MachineActivity(in_flight=busy, last_used_at=last, acknowledged=acknowledged)
        idle = not any(use.in_flight for use in uses.values())
        activity = Activity(gateway=gateway, sent_at=self.world.now, machines=uses, leaving=leaving and idle)
        self.handle(ActivityReported(activity))

    # What the waker asked for is done, in any order; or its outcome is lost.

    @precondition(lambda self: self.world.effects)
    @rule(data=st.data(), lost=st.booleans(), refused=st.booleans())
    def an_effect_is_done(self, data: st.DataObject, lost: bool, refused: bool) -> None:
        effect = data.draw(st.sampled_from(self.world.effects))
        self.world.effects.remove(effect)
        event = self._done(effect, refused)
        if not lost and event is not None:
            self.handle(event)

    def _done(self, effect: Effect, refused: bool) -> Event | None:
        self.world.now += 0.01
        match effect:
            case StartMachine(machine=name, serial=serial, generation=generation):
                engine = self.engines[name]
                if not engine.running and not refused:
                    self.engines[name] = engine = Engine(generation, running=True)
                return Called(
                    machine=name,
                    call="start",
                    serial=serial,
                    outcome="refused" if refused and not engine.running else "accepted",
                    seconds=0.1,
                    endpoint=f"http://{name}:{engine.generation}",
                )
            case StopMachine(machine=name, serial=serial):
                self._nobody_is_served_by(name)
                self.engines[name].running = refused and self.engines[name].running
                outcome = "failed" if refused else "accepted"
                return Called(machine=name, call="stop", serial=serial, outcome=outcome, seconds=0.1)  # type: ignore[arg-type]  # one of the outcomes
            case Observe(provider):
                observations = {name: self.observation(name) for name in MACHINES}
                return Observed(provider=provider, requested_at=self.world.now, observations=observations)
            case Probe(machine=name, serial=serial, step=step):
                answered = self.engines[name].running and (step == "reach" or self.engines[name].answers)
                return Probed(machine=name, serial=serial, step=step, answered=answered, seconds=0.1, tokens=2)
            case _:
                return None

    def _nobody_is_served_by(self, name: str) -> None:
        """A stop never meets a request of a gateway that the waker hears."""
        live = self.world.fleet.gateways
        if self.world.machine(name).wake_id and self.world.state(name) == "falling_asleep":
            was_ready = "draining" in self.world.path(name)[-2:]
            busy = [g for g in live if self.in_flight[g, name]]
            assert not (was_ready and busy), f"{name} was stopped under {busy}"

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def an_event_comes_again(self, data: st.DataObject) -> None:
        self.world.handle(data.draw(st.sampled_from(self.handled)))

    @rule()
    def the_waker_dies(self) -> None:
        """What it asked for is lost; the next one reads the bucket and looks."""
        self.world.begin({name: self.observation(name) for name in MACHINES})
        self.handled.clear()  # they were told to a process that is gone

    @rule()
    def a_machine_is_removed_or_configured_again(self) -> None:
        """The next waker has another configuration; what runs, runs on."""
        spec = self.world.spec
        is_there = "a2" in spec.machines
        machines = {name: m for name, m in self.whole.machines.items() if name != "a2" or not is_there}
        lineups = {model: tuple(n for n in names if n in machines) for model, names in self.whole.lineups.items()}
        self.world.spec = replace(spec, machines=machines, lineups=lineups)
        self.the_waker_dies()

    @invariant()
    def it_holds(self) -> None:
        invariants(self.world)

    def teardown(self) -> None:
        """Left in peace, with everything working, demand is met and then everything sleeps."""
        world = self.world
        if world.spec.machines != self.whole.machines:
            self.a_machine_is_removed_or_configured_again()
        world.gates()
        for key in self.in_flight:
            self.in_flight[key] = 0
        pause = backoff_s(world.machine("b1").backoff.unready_wakes + 1)
        self._live_on(pause + CAP * 4, has_demand=True)
        assert world.state("b1") == "ready", world.machine("b1")
        self._live_on(CAP * 4, has_demand=False)
        assert {world.state(name) for name in MACHINES} == {"asleep"}
        assert not any(engine.running for engine in self.engines.values())
        invariants(world)

    def _live_on(self, seconds: float, *, has_demand: bool) -> None:
        end = self.world.now + seconds
        while self.world.now < end:
            self.world.pass_time(BEAT_SECONDS, step=BEAT_SECONDS)
            for gateway in GATEWAYS:
                self.a_gateway_reports(gateway, leaving=False)
                if has_demand and self.world.state("b1") != "ready":
                    self.a_gateway_wants("n", gateway, 1)
                else:
                    self.a_gateway_wants("m", gateway, 0)
                    self.a_gateway_wants("n", gateway, 0)
            for _ in range(20):
                for effect in list(self.world.effects):
                    self.world.effects.remove(effect)
                    if event := self._done(effect, refused=False):
                        self.world.handle(event)
            for name in MACHINES:
                self.an_engine_has_loaded(name)
            if has_demand and self.world.state("b1") == "ready":
                return


Fleet.TestCase.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestFleet = Fleet.TestCase
