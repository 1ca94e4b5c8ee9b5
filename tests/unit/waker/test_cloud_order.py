"""Over a simulated cloud, whatever happens in whatever order: it holds, nothing bills unseen, and peace brings rest."""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.waker.core.events import (
    ActivityReported,
    Called,
    CallKind,
    CountRequests,
    DemandReported,
    Effect,
    Event,
    Observe,
    Observed,
    PowerState,
    Probe,
    Probed,
    RequestsCounted,
    StartMachine,
    StopMachine,
    Tick,
    Write,
)
from services.waker.core.fleet import handle
from services.waker.core.state import Fleet
from services.waker.core.unready import backoff_s
from shared.messages.gateway import Activity, MachineActivity, WakeRequest
from shared.messages.waker import CommandKind
from tests.unit.waker.cloud import Cloud, Fault
from tests.unit.waker.fleets import CAP, IDLE, Died, World, invariants, spec

MACHINES = ("a1", "a2", "b1")
STRAY = "ec2:i-9"
POOLS = {"a1": "p", "a2": "p", "b1": "q", STRAY: "p"}
GATEWAYS = ("g1", "g2")
STEP = 1.0
ORPHAN_ASLEEP_WITHIN_S = 60.0


@dataclass(frozen=True)
class Flight:
    """A provider call on its way."""

    term: int
    machine: str
    kind: CallKind
    serial: int
    force: bool
    answers_after: float


@dataclass(frozen=True)
class Arrival:
    """What comes to the leader of this term."""

    term: int
    event: Event


@dataclass
class OldLeader:
    """It does not know yet that another leads."""

    fleet: Fleet
    known: dict[str, int]


class SimulatedCloud(RuleBasedStateMachine):
    """The world's truth beside what the waker thinks of it."""

    @initialize()
    def begin(self) -> None:
        self.world = World(spec=spec(provider="ec2"), now=1_000_000.0, blind=False, counts=False)
        self.cloud = Cloud(POOLS, self.world.now)
        self.cloud.orphans.add(STRAY)
        self.term = 1
        self.old: OldLeader | None = None
        self.numbers = itertools.count()
        self.due: list[tuple[float, int, Flight | Arrival]] = []
        self.handled: list[Event] = []
        self.in_flight: Counter[tuple[str, str]] = Counter()
        self.last_used: dict[tuple[str, str], float] = {}
        self.silent: set[str] = set()
        self.unfound: dict[str, float] = {}
        """What bills while its record says that it sleeps, and since when."""
        self.latency = 0.2

    def handle(self, event: Event) -> None:
        self.handled = [*self.handled[-30:], event]
        try:
            self.world.handle(event)
        except Died:
            self.another_leads()

    def another_leads(self) -> None:
        """What was asked of the one before is told to nobody; calls that were verified are made all the same."""
        self.world.dies_after = None
        self.term += 1
        self.handled.clear()
        observations, orphans = self.cloud.observe(self.world.now)
        self.world.begin(observations, *orphans, error="an outage" if self.cloud.out else "")

    # Time, in which calls land and answers come.

    def live(self, seconds: float) -> None:
        world = self.world
        end = world.now + seconds
        while world.now < end:
            world.now += STEP
            self.cloud.advance(world.now)
            while self.due and self.due[0][0] <= world.now:
                _, _, what = heappop(self.due)
                if isinstance(what, Flight):
                    self._land(what)
                elif what.term == self.term:
                    self.handle(what.event)
            self.handle(Tick())
            if int(world.now) % 3 == 0:
                for gateway in GATEWAYS:
                    if gateway not in self.silent:
                        self.a_gateway_reports(gateway)
            self._send()
            self._money()

    def _later(self, seconds: float, what: Flight | Arrival) -> None:
        heappush(self.due, (self.world.now + seconds, next(self.numbers), what))

    def _send(self) -> None:
        """What the leader asked for. It asks for the lease right before a call: here, where it has it."""
        effects, self.world.effects = self.world.effects, []
        for effect in effects:
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        now = self.world.now
        match effect:
            case StartMachine(machine=name, serial=serial):
                self._later(self.latency, Flight(self.term, name, "start", serial, False, self.latency))
            case StopMachine(machine=name, serial=serial, force=force):
                self._nobody_is_served_by(name)
                self._later(self.latency, Flight(self.term, name, "stop", serial, force, self.latency))
            case Observe(provider):
                observations, orphans = self.cloud.observe(now)
                error = "an outage" if self.cloud.out else None
                if error:
                    observations, orphans = {}, ()
                observed = Observed(
                    provider=provider, requested_at=now, observations=observations, orphans=orphans, error=error
                )
                self._later(self.latency, Arrival(self.term, observed))
            case Probe(machine=name, serial=serial, step=step):
                vm = self.cloud.vms[name]
                answered = vm.answers(now)
                probed = Probed(
                    machine=name,
                    serial=serial,
                    step=step,
                    answered=answered,
                    seconds=self.latency,
                    is_host_up=vm.power == "running",
                    code="" if answered else "refused",
                    tokens=1,
                )
                self._later(self.latency, Arrival(self.term, probed))
            case CountRequests(machine=name, serial=serial):
                answered = self.cloud.vms[name].answers(now)
                running = sum(count for (_, machine), count in self.in_flight.items() if machine == name)
                counted = RequestsCounted(
                    machine=name,
                    serial=serial,
                    running=running if answered else None,
                    answered=answered,
                    seconds=self.latency,
                )
                self._later(self.latency, Arrival(self.term, counted))
            case _:
                raise TypeError(effect)

    def _land(self, flight: Flight) -> None:
        answer = self.cloud.call(flight.machine, flight.kind, force=flight.force)
        if answer is None:
            return
        outcome, scope = answer
        called = Called(
            machine=flight.machine,
            call=flight.kind,
            serial=flight.serial,
            outcome=outcome,
            seconds=flight.answers_after,
            scope=scope,
            reason="it says no" if outcome == "refused" else "",
        )
        self._later(flight.answers_after, Arrival(flight.term, called))

    def _nobody_is_served_by(self, name: str) -> None:
        """A stop after a drain never meets a request that the engine runs, of whichever gateway."""
        if self.world.path(name)[-2:] == ["draining", "falling_asleep"]:
            relevant = GATEWAYS if self.cloud.vms[name].answers(self.world.now) else self.world.fleet.gateways
            busy = [g for g in relevant if self.in_flight[g, name]]
            assert not busy, f"{name} was stopped under {busy}"

    def _money(self) -> None:
        """What bills is found: no record says for longer than a minute that it sleeps, while one can see."""
        now = self.world.now
        for name, vm in self.cloud.vms.items():
            record = self.world.bucket.get(name)
            asleep = record is None or record[0].state in ("asleep", "gone")
            if vm.billed and asleep and not self.cloud.out:
                since = self.unfound.setdefault(name, now)
                assert now - since <= ORPHAN_ASLEEP_WITHIN_S, f"{name} bills, and nobody knows"
            else:
                self.unfound.pop(name, None)

    @rule(seconds=st.sampled_from([1.0, 5.0, 20.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.live(seconds)

    @rule(seconds=st.sampled_from([-3600.0, 3600.0]))
    def the_clock_is_set_between_two_terms(self, seconds: float) -> None:
        self.world.now += seconds
        self.cloud.set_clock(seconds)
        self.due = [(at + seconds, number, what) for at, number, what in self.due]
        self.last_used = {key: at + min(seconds, 0.0) for key, at in self.last_used.items()}
        self.unfound.clear()
        self.old = None
        self.another_leads()

    @rule(latency=st.sampled_from([0.2, 3.0, 12.0, 28.0]), lag=st.sampled_from([0.0, 3.0, 8.0]))
    def the_provider_is_slow(self, latency: float, lag: float) -> None:
        self.latency, self.cloud.lag = latency, lag

    # The provider does as it likes.

    @rule(out=st.booleans())
    def the_provider_is_out_or_back(self, out: bool) -> None:
        self.cloud.out = out

    @rule(passes=st.booleans())
    def the_self_test_fails_or_passes(self, passes: bool) -> None:
        self.world.tests_pass = passes

    @rule(
        name=st.sampled_from(MACHINES),
        fault=st.sampled_from(
            ["transient", "machine", "capacity_pool", "quota", "account", "error", "capacity", "lost", "undone"]
        ),
    )
    def the_next_call_fails(self, name: str, fault: Fault) -> None:
        self.cloud.vms[name].fault = fault

    @rule(
        name=st.sampled_from([*MACHINES, STRAY]),
        power=st.sampled_from(["stopped", "running", "stopped_billed", "error", "not_found"]),
    )
    def somebody_else_acts_on_it(self, name: str, power: PowerState) -> None:
        self.cloud.become(name, power)

    @rule(name=st.sampled_from(MACHINES), how=st.sampled_from(["leaving", "locked", "bounces", "stuck", "dead"]))
    def it_is_odd(self, name: str, how: str) -> None:
        vm = self.cloud.vms[name]
        match how:
            case "leaving" if vm.power == "running":
                vm.leaving = "in two minutes"
            case "locked" if vm.power == "stopped":
                vm.locked = "only the provider may start it"
            case "bounces":
                vm.bounces = 2
            case "stuck":
                vm.stuck = True
            case "dead":
                vm.dead = vm.power == "running"
            case _:
                pass

    # Gateways and the operator speak.

    @rule(model=st.sampled_from(["m", "n"]), gateway=st.sampled_from(GATEWAYS), waiting=st.integers(0, 2))
    def a_gateway_wants(self, model: str, gateway: str, waiting: int) -> None:
        now = self.world.now
        request = WakeRequest(model=model, gateway=gateway, waiting=waiting, deadline=now + CAP, sent_at=now)
        self.handle(DemandReported(request, now))

    @rule(name=st.sampled_from(MACHINES), gateway=st.sampled_from(GATEWAYS), change=st.sampled_from([1, -1]))
    def a_request_begins_or_ends(self, name: str, gateway: str, change: int) -> None:
        """A gateway sends requests to what the bucket calls ready, and says so at once.

        One that is cut off says nothing, and gets no new ones.
        """
        if gateway in self.silent:
            self.in_flight[gateway, name] = max(0, self.in_flight[gateway, name] + min(change, 0))
            return
        record, key = self.world.bucket.get(name), (gateway, name)
        if change > 0 and record is not None and record[0].state == "ready":
            self.in_flight[key] += 1
        elif change < 0 and self.in_flight[key]:
            self.in_flight[key] -= 1
        else:
            return
        self.last_used[key] = self.world.now
        self.a_gateway_reports(gateway)

    @rule(gateway=st.sampled_from(GATEWAYS), silent=st.booleans())
    def a_gateway_is_cut_off_or_reconnected(self, gateway: str, silent: bool) -> None:
        """One that is cut off goes on relaying what it began."""
        if silent:
            self.silent.add(gateway)
        else:
            self.silent.discard(gateway)

    def a_gateway_reports(self, gateway: str) -> None:
        uses = {}
        for name, (record, revision) in self.world.bucket.items():
            busy = self.in_flight[gateway, name]
            acknowledged = revision if record.state == "draining" and not busy else None
            last = self.last_used.get((gateway, name))
            uses[name] = MachineActivity(in_flight=busy, last_used_at=last, acknowledged=acknowledged)
        self.handle(ActivityReported(Activity(gateway=gateway, sent_at=self.world.now, machines=uses)))

    @rule(order=st.sampled_from(["hibernate", "cordon", "uncordon"]), name=st.sampled_from(MACHINES))
    def the_operator_orders(self, order: CommandKind, name: str) -> None:
        try:
            self.world.order(order, name)
        except Died:
            self.another_leads()

    @rule(model=st.sampled_from(["m", "n"]))
    def the_operator_wants(self, model: str) -> None:
        try:
            self.world.order("wake", model)
        except Died:
            self.another_leads()

    # Wakers die, and take each other for dead.

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def an_event_comes_again(self, data: st.DataObject) -> None:
        self.handle(data.draw(st.sampled_from(self.handled)))

    @rule()
    def the_waker_dies(self) -> None:
        self.another_leads()

    @rule(effects=st.integers(0, 6))
    def the_waker_dies_within_a_step(self, effects: int) -> None:
        """Some of what it decided is done, the rest never."""
        self.world.dies_after = effects

    @rule()
    def another_takes_this_one_for_dead(self) -> None:
        self.old = OldLeader(self.world.fleet, dict(self.world.known))
        self.another_leads()

    @precondition(lambda self: self.old is not None)
    @rule(model=st.sampled_from(["m", "n"]))
    def the_old_leader_acts_on(self, model: str) -> None:
        """It may write what nobody wrote since, which ends the other's term; a call is stopped by the lease."""
        old, self.old = self.old, None
        assert old is not None
        now = self.world.now
        request = WakeRequest(model=model, gateway="g1", waiting=1, deadline=now + CAP, sent_at=now)
        _, effects = handle(old.fleet, DemandReported(request, now), now)
        for effect in effects:
            match effect:
                case Write(record):
                    there = self.world.bucket.get(record.machine)
                    if there is not None and there[1] != old.known.get(record.machine):
                        return  # somebody else wrote it: its term is over
                    self.world.revision += 1
                    self.world.bucket[record.machine] = (record, self.world.revision)
                case StartMachine() | StopMachine():
                    return  # the lease is another's: its term is over
                case _:
                    pass
        self.another_leads()

    @invariant()
    def it_holds(self) -> None:
        invariants(self.world)

    def teardown(self) -> None:
        """Left in peace, with everything working, demand is met, and then everything sleeps and nothing bills."""
        self._peace()
        pause = backoff_s(self.world.machine("b1").backoff.unready_wakes + 1)
        self._until(pause + CAP * 5, "n", lambda: self.world.state("b1") == "ready")
        for name in MACHINES:
            self.the_operator_orders("hibernate", name)
        everything = IDLE + 3 * CAP + 400
        self._until(everything, "", self._all_asleep)
        invariants(self.world)

    def _peace(self) -> None:
        self.world.dies_after = None
        self.cloud.out, self.cloud.lag, self.latency, self.world.tests_pass = False, 0.0, 0.2, True
        self.in_flight.clear()
        self.silent.clear()
        for vm in self.cloud.vms.values():
            vm.fault, vm.locked, vm.leaving, vm.bounces, vm.dead = None, "", "", 0, False
            if vm.power in ("not_found", "error"):
                vm.power = "stopped"
        for name in MACHINES:
            self.the_operator_orders("uncordon", name)

    def _until(self, seconds: float, model: str, done: Callable[[], bool]) -> None:
        end = self.world.now + seconds
        while not done():
            assert self.world.now < end, {m.id: (m.state, m.reason) for m in self.world.fleet.machines.values()}
            for other in ("m", "n"):
                for gateway in GATEWAYS:
                    self.a_gateway_wants(other, gateway, 1 if other == model else 0)
            self.live(5)

    def _all_asleep(self) -> bool:
        asleep = all(m.state == "asleep" for m in self.world.fleet.machines.values() if m.id != STRAY)
        return asleep and not any(vm.billed for vm in self.cloud.vms.values())


SimulatedCloud.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
TestSky = SimulatedCloud.TestCase
