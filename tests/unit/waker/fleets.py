"""Fleets for tests, and a world that plays the buckets, providers and engines."""

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

from services.waker.core.adopt import PersistedState, adopt, fits
from services.waker.core.events import (
    ActivityReported,
    Called,
    Command,
    CountRequests,
    DemandReported,
    Effect,
    Event,
    Forget,
    Journal,
    Observation,
    Observe,
    Observed,
    Orphan,
    PowerState,
    Probe,
    Probed,
    RecordWritten,
    RefusalScope,
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
from services.waker.core.fleet_spec import FleetSpec, MachineSpec
from services.waker.core.history import PHASES
from services.waker.core.idle import IdleSettings
from services.waker.core.machine import Machine
from services.waker.core.state import Fleet
from shared.config.providers import ProviderName
from shared.messages.gateway import Activity, MachineActivity, WakeRequest
from shared.messages.waker import (
    CallOutcome,
    CommandKind,
    JournalEntry,
    KeyWakes,
    MachineMemory,
    MachineRecord,
    MachineState,
    Memory,
    OperatorWakesMemory,
    ProviderCall,
    TierMemory,
    Transition,
    WakesMemory,
)
from tests.unit.waker.invariants import STEPS, WORLDS, HandledEvent

IDLE, CAP, LIMIT, GATEWAY, DEMAND = 60.0, 120.0, 3, 10.0, 15.0


def idle(**changes: Any) -> IdleSettings:
    plain: dict[str, Any] = {
        "policy": "fixed",
        "timeout": IDLE,
        "min_awake": 0.0,
        "max_cycles_per_hour": None,
        "keep_warm": (),
        "idle_price": None,
        "wait_price": 0.0,
    }
    return IdleSettings(**(plain | changes))


def spec(*, static: bool = False, provider: ProviderName = "process", **changes: Any) -> FleetSpec:
    """Machines a1, a2 of tier `a` and b1 of tier `b`; model `m` prefers `a`, model `n` has `b` alone."""
    ids = itertools.count(1)
    names = {"a1": ("a", ("m",)), "a2": ("a", ("m",)), "b1": ("b", ("m", "n"))}
    machines = {
        name: MachineSpec(
            id=name,
            tier=tier,
            provider=provider,
            room=2,
            models=models,
            served_as=models[0],
            endpoint=None if provider == "process" else f"http://{name}",
        )
        for name, (tier, models) in names.items()
    }
    lineups = {"m": ("a1", "a2", "b1"), "n": ("b1",)}
    if static:
        machines["s1"] = MachineSpec(
            id="s1", tier="s", provider="static", room=2, models=("o",), served_as="o", endpoint="http://s1"
        )
        lineups["o"] = ("s1",)
    plain = FleetSpec(
        machines=machines,
        lineups=lineups,
        idle={"a": idle(), "b": idle(), "s": idle()},
        new_id=lambda _now: f"wake-{next(ids)}",
        wake_cap_s=CAP,
        hedge_margin_s=5.0,
        phase_limits=dict.fromkeys(PHASES, CAP),
        restart_limit=LIMIT,
        call_timeout_s=30.0,
        probe_interval_s=0.25,
        demand_timeout_s=DEMAND,
        gateway_timeout_s=GATEWAY,
    )
    return replace(plain, **changes)


class Died(Exception):
    """The waker did, or its term ended."""


@dataclass
class World:
    """A fleet, what it asked for, and what is in the bucket. `handle` gives it an event."""

    spec: FleetSpec = field(default_factory=spec)
    now: float = 1000.0
    effects: list[Effect] = field(default_factory=list)
    """Asked for and not answered yet; records and the journal are kept apart."""
    bucket: dict[str, tuple[MachineRecord, int]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    wakes_of_keys: dict[str, KeyWakes] = field(default_factory=dict)
    journal: list[JournalEntry] = field(default_factory=list)
    steps: list[HandledEvent] = field(default_factory=list)
    """Not checked yet; see `invariants`."""
    known: dict[str, int] = field(default_factory=dict)
    """The revisions that this waker expects."""
    journal_before: tuple[int, dict[str, MachineState]] = (0, {})
    """How much of the journal is by others, and where they left the machines."""
    dies_after: int | None = None
    """So many effects more."""
    revision: int = 0
    closed: frozenset[str] = frozenset()
    turned_at: float = 0.0
    tests_pass: bool = True
    running: dict[str, int | None] = field(default_factory=dict)
    """How many requests each engine says that it runs; 0 unless it is here, and None if it does not say."""
    silent: bool = False
    """No engine responds to the question."""
    counts: bool = True
    """The questions are answered at once; else the test does."""
    blind: bool = True
    """Looks are answered, and show nothing: only `seen` does."""

    def __post_init__(self) -> None:
        self.fleet = Fleet(spec=self.spec, leading_since=self.now, machines={})
        self.begin({})

    @property
    def provider(self) -> ProviderName:
        return next(iter(self.spec.machines.values())).provider

    def begin(self, observations: dict[str, Observation], *orphans: Orphan, error: str | None = None) -> None:
        """A waker takes over: it knows what is in the buckets, and what it sees."""
        asleep = {
            name: Observation(power="stopped", provider_state="stopped")
            for name, m in self.spec.machines.items()
            if m.sleeps
        }
        self.effects.clear()
        self.known = {name: revision for name, (_, revision) in self.bucket.items()}
        others = {name: record for name, (record, _) in self.bucket.items() if name not in self.spec.machines}
        self.journal_before = (
            len(self.journal),
            {
                name: r.state
                for name, (r, _) in self.bucket.items()
                if name in others or fits(self.spec.machines[name], r)
            },
        )
        left = PersistedState(
            records={name: known for name, known in self.bucket.items() if name not in others},
            removed=others,
            machines={m.machine: m for m in self.memory.values() if isinstance(m, MachineMemory)},
            tiers={m.tier: m for m in self.memory.values() if isinstance(m, TierMemory)},
            operator_wakes=next((m.models for m in self.memory.values() if isinstance(m, OperatorWakesMemory)), ()),
            wakes=next((m.wakes for m in self.memory.values() if isinstance(m, WakesMemory)), {}),
            keys=self.wakes_of_keys,
        )
        seen = {} if error else asleep | observations
        observe = Observed(
            provider=self.provider, requested_at=self.now, observations=seen, orphans=orphans, error=error
        )
        self.fleet, effects = adopt(self.spec, left, {self.provider: observe}, self.now, closed=self.closed)
        self._done(effects)

    def handle(self, event: Event) -> None:
        before = self.fleet
        self.fleet, effects = handle(before, event, self.now)
        self.steps.append(HandledEvent(before, event, self.fleet, effects, self.now))
        self._done(effects)

    def pass_time(self, seconds: float, *, step: float = 0.25) -> None:
        """With ticks on the way."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self.handle(Tick(self.closed))

    def _done(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._live()
            match effect:
                case Journal(entry):
                    self.journal.append(entry)
                case Write(record):
                    self._write(record)
                case Forget(name):
                    assert self.bucket.pop(name)[1] == self.known.pop(name), name
                case Remember(memory):
                    self._remember(memory)
                case TestProvider(provider):
                    self.handle(Tested(provider=provider, faults=() if self.tests_pass else ("no permission",)))
                case CountRequests(machine=name, serial=serial) if self.counts:
                    running = self.running.get(name, 0)
                    code, running = "404" if running is None else "", None if self.silent else running
                    counted = RequestsCounted(
                        machine=name, serial=serial, running=running, answered=not self.silent, seconds=0.01, code=code
                    )
                    self.handle(counted)
                case Observe(provider) if self.blind:
                    self.effects.append(effect)
                    self.handle(Observed(provider=provider, requested_at=self.now, observations={}))
                case _:
                    self.effects.append(effect)

    def _remember(self, memory: Memory | KeyWakes) -> None:
        match memory:
            case KeyWakes():
                self.wakes_of_keys[memory.key_id] = memory
            case MachineMemory():
                self.memory[f"machine.{memory.machine}"] = memory
            case TierMemory():
                self.memory[f"tier.{memory.tier}"] = memory
            case WakesMemory():
                self.memory["wakes"] = memory
            case _:
                self.memory["orders"] = memory

    def _live(self) -> None:
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise Died("at a point that the test chose")

    def _write(self, record: MachineRecord) -> None:
        there = self.bucket.get(record.machine)
        if there is not None and there[1] != self.known.get(record.machine):
            raise Died("somebody else wrote the record")
        self.revision += 1
        self.bucket[record.machine] = (record, self.revision)
        self.known[record.machine] = self.revision
        self.handle(RecordWritten(record, self.revision))

    def machine(self, name: str) -> Machine:
        return self.fleet.machines[name]

    def deadline(self, name: str) -> float:
        attempt = self.machine(name).attempt
        assert attempt is not None
        return attempt.deadline

    def state(self, name: str) -> MachineState | None:
        return self.machine(name).state

    def path(self, name: str) -> list[MachineState]:
        return [e.to_state for e in self.journal if isinstance(e, Transition) and e.machine == name]

    def calls(self) -> list[tuple[str, str]]:
        return [(e.call, e.outcome) for e in self.journal if isinstance(e, ProviderCall)]

    def take(self, kind: type[Effect]) -> list[Effect]:
        """What of this kind is asked for; it is taken away."""
        effects = [e for e in self.effects if isinstance(e, kind)]
        self.effects = [e for e in self.effects if not isinstance(e, kind)]
        return effects

    def want(self, model: str = "m", waiting: int = 1, *, gateway: str = "g1", lasts: float = 600.0) -> None:
        request = WakeRequest(
            model=model,
            gateway=gateway,
            waiting=waiting,
            deadline=self.now + lasts,
            sent_at=self.now,
            key_id=f"key-{gateway}",
        )
        self.handle(DemandReported(request, self.now))

    def use(
        self, name: str, in_flight: int = 0, *, gateway: str = "g1", used: float | None = None, ack: bool = False
    ) -> None:
        """A gateway's activity on one machine; `ack`: it has seen the record as it stands."""
        acknowledged = self.bucket[name][1] if ack else None
        use = MachineActivity(in_flight=in_flight, last_used_at=used, acknowledged=acknowledged)
        self.handle(ActivityReported(Activity(gateway=gateway, sent_at=self.now, machines={name: use})))

    def gates(self, *closed: str) -> None:
        """The tiers whose budget gate is closed from now on."""
        self.turned_at, self.closed = self.now, frozenset(closed)
        self.handle(Tick(self.closed))

    def order(self, order: CommandKind, target: str, *, is_machine: bool = False) -> None:
        self.handle(Command(order=order, target=target, by="ops@host", is_machine=is_machine))

    def started(
        self, outcome: CallOutcome = "accepted", *, reason: str = "", scope: RefusalScope | None = None, code: str = ""
    ) -> StartMachine:
        """The one start that is asked for, and this as its outcome."""
        (start,) = self.take(StartMachine)
        assert isinstance(start, StartMachine)
        local = self.provider == "process" and outcome == "accepted"
        endpoint = f"http://{start.machine}:{start.generation}" if local else None
        self.now += 0.1
        self.handle(
            Called(
                machine=start.machine,
                call="start",
                serial=start.serial,
                outcome=outcome,
                seconds=0.1,
                code=code,
                reason=reason,
                endpoint=endpoint,
                scope=scope,
            )
        )
        return start

    def stopped(
        self, outcome: CallOutcome = "accepted", *, scope: RefusalScope | None = None, reason: str = ""
    ) -> StopMachine:
        (stop,) = self.take(StopMachine)
        assert isinstance(stop, StopMachine)
        self.now += 0.1
        self.handle(
            Called(
                machine=stop.machine,
                call="stop",
                serial=stop.serial,
                outcome=outcome,
                seconds=0.1,
                scope=scope,
                reason=reason,
            )
        )
        return stop

    def probed(
        self, *, answered: bool = True, tokens: int = 3, host: bool = True, mismatch: str = "", code: str = "refused"
    ) -> Probe:
        """The one probe that is asked for, and its answer."""
        (probe,) = self.take(Probe)
        assert isinstance(probe, Probe)
        self.now += 0.1
        self.handle(
            Probed(
                machine=probe.machine,
                serial=probe.serial,
                step=probe.step,
                answered=answered and not mismatch,
                seconds=0.1,
                is_host_up=host,
                mismatch=mismatch,
                code="" if answered else code,
                tokens=tokens if answered and probe.step == "token" else 0,
            )
        )
        return probe

    def seen(
        self,
        name: str,
        power: PowerState,
        *,
        generation: int | None = None,
        reason: str = "",
        after: float = 0.01,
        **more: Any,
    ) -> None:
        """A look that was asked for now."""
        self.now += after
        known = self.machine(name)
        local = known.spec.provider == "process"
        number = (known.generation if generation is None else generation) if local else None
        observation = Observation(
            power=power,
            provider_state=more.pop("provider_state", power),
            generation=number,
            endpoint=f"http://{name}:{number}" if local and power == "running" else None,
            reason=reason,
            **more,
        )
        self.observed({name: observation})

    def observed(self, observations: dict[str, Observation], *orphans: Orphan, error: str | None = None) -> None:
        self.handle(
            Observed(
                provider=self.provider, requested_at=self.now, observations=observations, orphans=orphans, error=error
            )
        )

    def ready(self, name: str = "a1", model: str = "m") -> None:
        """Wake it the usual way; the demand is withdrawn."""
        self.want(model)
        assert self.started().machine == name
        if self.provider != "process":
            self.seen(name, "running", after=20.0)
        self.probed()
        self.probed()
        self.want(model, 0)
        assert self.state(name) == "ready"


def invariants(world: World) -> None:
    """Checked for each step since the last time, and for the world as it is."""
    steps, world.steps = world.steps, []
    for step in steps:
        for check in STEPS:
            check(step)
    for holds in WORLDS:
        holds(world)


def requested(world: World, kind: type[StartMachine] | type[StopMachine]) -> list[str]:
    """Whom it is asked of now; it stays asked."""
    return [e.machine for e in world.effects if isinstance(e, kind)]


def answering(world: World, seconds: float, *, until: str = "", name: str = "a1") -> None:
    """Time passes, and engines that are asked answer; until the machine is in this state, if one is named."""
    end = world.now + seconds
    while world.now < end and not (until and world.state(name) == until):
        world.pass_time(min(1.0, end - world.now), step=1.0)
        for p in world.take(Probe):
            assert isinstance(p, Probe)
            world.handle(Probed(machine=p.machine, serial=p.serial, step=p.step, answered=True, seconds=0.1, tokens=3))


def beginning(world: World, **powers: PowerState) -> None:
    """A new leader sees these, and the rest off."""
    world.begin({name: Observation(power=power, provider_state=power) for name, power in powers.items()})
