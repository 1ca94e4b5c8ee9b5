"""Fleets for tests, a world that plays providers and engines, and what must hold of every fleet."""

import itertools
from dataclasses import dataclass, field

from services.waker.core.adopt import adopt
from services.waker.core.events import (
    Called,
    Demand,
    Effect,
    Event,
    Journal,
    Looked,
    Probe,
    Probed,
    Sight,
    StartMachine,
    StopMachine,
    Tick,
    Used,
    Write,
    Written,
)
from services.waker.core.fleet import handle
from services.waker.core.plan import MachinePlan, Plan
from services.waker.core.policy import starts
from services.waker.core.state import MOVES, Fleet, Machine
from shared.messages.gateway import Activity, MachineActivity, WakeRequest
from shared.messages.waker import CallOutcome, MachineRecord, MachineState, ProviderCall, Transition

IDLE, CAP, LIMIT, GATEWAY, DEMAND = 60.0, 120.0, 3, 10.0, 15.0


def plan(*, static: bool = False) -> Plan:
    """Machines a1, a2 of tier `a` and b1 of tier `b`; model `m` prefers `a`, model `n` has `b` alone."""
    ids = itertools.count(1)
    names = {"a1": ("a", ("m",)), "a2": ("a", ("m",)), "b1": ("b", ("m", "n"))}
    machines = {
        name: MachinePlan(
            id=name,
            tier=tier,
            sleeps=True,
            room=2,
            idle_timeout=IDLE,
            models=models,
            served_as=models[0],
            endpoint=None,
        )
        for name, (tier, models) in names.items()
    }
    lineups = {"m": ("a1", "a2", "b1"), "n": ("b1",)}
    if static:
        machines["s1"] = MachinePlan(
            id="s1",
            tier="s",
            sleeps=False,
            room=2,
            idle_timeout=IDLE,
            models=("o",),
            served_as="o",
            endpoint="http://s1",
        )
        lineups["o"] = ("s1",)
    return Plan(
        machines=machines,
        lineups=lineups,
        new_id=lambda _now: f"wake-{next(ids)}",
        wake_cap=CAP,
        restart_limit=LIMIT,
        call_timeout=30.0,
        probe_interval=0.25,
        demand_timeout=DEMAND,
        gateway_timeout=GATEWAY,
    )


@dataclass
class World:
    """A fleet, what it asked for, and what is in the bucket. `tell` gives it an event."""

    plan: Plan = field(default_factory=plan)
    now: float = 1000.0
    effects: list[Effect] = field(default_factory=list)
    """Asked for and not answered yet; records and the journal are kept apart."""
    bucket: dict[str, tuple[MachineRecord, int]] = field(default_factory=dict)
    journal: list[Transition | ProviderCall] = field(default_factory=list)
    revision: int = 0

    def __post_init__(self) -> None:
        self.fleet = Fleet(plan=self.plan, leading_since=self.now, machines={})
        self.begin({})

    def begin(self, sights: dict[str, Sight], *, forget: bool = True) -> None:
        """A waker takes over; `forget`: it is another process than the one before."""
        asleep = {
            name: Sight(running=False, provider_state="stopped") for name, m in self.plan.machines.items() if m.sleeps
        }
        before = None if forget else self.fleet
        self.effects.clear()
        self.fleet, effects = adopt(self.plan, self.bucket, asleep | sights, self.now, before)
        self._done(effects)

    def tell(self, event: Event) -> None:
        self.fleet, effects = handle(self.fleet, event, self.now)
        self._done(effects)

    def pass_time(self, seconds: float, *, step: float = 0.25) -> None:
        """With ticks on the way."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self.tell(Tick())

    def _done(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Journal(entry):
                    self.journal.append(entry)
                case Write(record):
                    self.revision += 1
                    self.bucket[record.machine] = (record, self.revision)
                    self.tell(Written(record, self.revision))
                case _:
                    self.effects.append(effect)

    def machine(self, name: str) -> Machine:
        return self.fleet.machines[name]

    def state(self, name: str) -> MachineState | None:
        return self.machine(name).state

    def path(self, name: str) -> list[MachineState]:
        return [e.to_state for e in self.journal if isinstance(e, Transition) and e.machine == name]

    def calls(self) -> list[tuple[str, str]]:
        return [(e.call, e.outcome) for e in self.journal if isinstance(e, ProviderCall)]

    def take(self, kind: type[Effect]) -> list[Effect]:
        """What of this kind is asked for; it is taken away."""
        found = [e for e in self.effects if isinstance(e, kind)]
        self.effects = [e for e in self.effects if not isinstance(e, kind)]
        return found

    def want(self, model: str = "m", waiting: int = 1, *, gateway: str = "g1", lasts: float = 600.0) -> None:
        request = WakeRequest(
            model=model,
            gateway=gateway,
            waiting=waiting,
            deadline=self.now + lasts,
            sent_at=self.now,
            key_id=f"key-{gateway}",
        )
        self.tell(Demand(request, self.now))

    def use(
        self, name: str, in_flight: int = 0, *, gateway: str = "g1", used: float | None = None, ack: bool = False
    ) -> None:
        """A gateway's activity on one machine; `ack`: it has seen the record as it stands."""
        acknowledged = self.bucket[name][1] if ack else None
        use = MachineActivity(in_flight=in_flight, last_used_at=used, acknowledged=acknowledged)
        self.tell(Used(Activity(gateway=gateway, sent_at=self.now, machines={name: use})))

    def started(self, outcome: CallOutcome = "accepted", *, reason: str = "") -> StartMachine:
        """The one start that is asked for, and this as its outcome."""
        (start,) = self.take(StartMachine)
        assert isinstance(start, StartMachine)
        endpoint = f"http://{start.machine}:{start.generation}" if outcome == "accepted" else None
        self.now += 0.1
        self.tell(
            Called(
                machine=start.machine,
                call="start",
                serial=start.serial,
                outcome=outcome,
                seconds=0.1,
                reason=reason,
                endpoint=endpoint,
            )
        )
        return start

    def stopped(self, outcome: CallOutcome = "accepted") -> StopMachine:
        (stop,) = self.take(StopMachine)
        assert isinstance(stop, StopMachine)
        self.now += 0.1
        self.tell(Called(machine=stop.machine, call="stop", serial=stop.serial, outcome=outcome, seconds=0.1))
        return stop

    def probed(self, *, answered: bool = True, tokens: int = 3) -> Probe:
        """The one probe that is asked for, and its answer."""
        (probe,) = self.take(Probe)
        assert isinstance(probe, Probe)
        self.now += 0.1
        self.tell(
            Probed(
                machine=probe.machine,
                serial=probe.serial,
                step=probe.step,
                answered=answered,
                seconds=0.1,
                code="" if answered else "refused",
                tokens=tokens if answered and probe.step == "token" else 0,
            )
        )
        return probe

    def seen(
        self, name: str, *, running: bool, ending: bool = False, generation: int | None = None, reason: str = ""
    ) -> None:
        """A look that was asked for now."""
        self.now += 0.01
        known = self.machine(name)
        sight = Sight(
            running=running,
            provider_state="running" if running else "stopped",
            ending=ending,
            generation=known.generation if generation is None else generation,
            endpoint=f"http://{name}:{generation or known.generation}" if running else None,
            reason=reason,
        )
        self.tell(Looked(name, sight, self.now))

    def ready(self, name: str = "a1", model: str = "m") -> None:
        """Wake it the usual way; the demand is withdrawn."""
        self.want(model)
        assert self.started().machine == name
        self.probed()
        self.probed()
        self.want(model, 0)
        assert self.state(name) == "ready"


def invariants(world: World) -> None:
    """What holds of every fleet after every step."""
    for m in world.fleet.machines.values():
        assert (m.phase is not None) == (m.state == "waking"), m
        assert starts(m, m.wake_id) <= LIMIT, m
        assert m.stops <= 3, m
        assert not (m.state == "ready" and m.endpoint is None), m
        if m.call is not None:
            assert m.state == {"start": "waking", "stop": "falling_asleep"}[m.call.kind], m
        record = m.record()
        known = world.bucket.get(m.id)
        assert record == (known[0] if known else None), "the bucket says what the fleet is"
    for model, lineup in world.plan.lineups.items():
        waking = [name for name in lineup if world.state(name) == "waking"]
        others = {name for other in world.plan.lineups if other != model for name in world.plan.lineups[other]}
        own = [name for name in waking if name not in others]
        assert len(own) <= 1, f"one start per burst: {own}"
    last: dict[str, MachineState | None] = {}
    for entry in world.journal:
        if isinstance(entry, Transition):
            assert entry.from_state == last.get(entry.machine), entry
            assert entry.to_state in MOVES[entry.from_state], entry
            last[entry.machine] = entry.to_state
