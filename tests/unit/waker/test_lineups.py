"""Lineups under refusals: each candidate is tried before any is tried again, and nobody else is affected."""

import itertools
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import given, settings

from services.waker.core.events import Called, Observation, Observed, RefusalScope, StartMachine, StopMachine
from services.waker.core.fleet_spec import FleetSpec, MachineSpec
from services.waker.core.history import PHASES
from services.waker.core.policy import COOL_DOWN_LIMIT_S
from shared.config.providers import ProviderName
from tests.unit.waker.fleets import DEMAND, GATEWAY, LIMIT, World, idle

CAP = 600.0
SCOPES: tuple[RefusalScope, ...] = ("transient", "machine", "capacity_pool", "quota", "account")
Rejected = tuple[str, RefusalScope]
"""A machine, and the scope of its refusal."""


def spec(lineups: dict[str, tuple[str, ...]], providers: dict[str, str]) -> FleetSpec:
    """Each machine is a tier of its own."""
    ids = itertools.count(1)
    machines = {
        name: MachineSpec(
            id=name,
            tier=name,
            provider="ec2" if providers[name] == "ec2" else "hyperstack",
            room=2,
            models=tuple(model for model, names in lineups.items() if name in names),
            served_as="m",
            endpoint=f"http://{name}",
        )
        for name in sorted({name for names in lineups.values() for name in names})
    }
    return FleetSpec(
        machines=machines,
        lineups=lineups,
        idle={name: idle() for name in machines},
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


@dataclass
class SimulatedCloud:
    """Two clouds that refuse every start, as drawn."""

    world: World
    observations: dict[str, Observation]
    refusals: dict[str, list[RefusalScope]]
    """By machine, one for each attempt; what comes after them is refused with no room."""
    starts: list[tuple[float, str]] = field(default_factory=list)
    refused: list[tuple[float, str, RefusalScope]] = field(default_factory=list)

    def observe(self) -> None:
        self.world.now += 1.0
        providers: tuple[ProviderName, ...] = ("ec2", "hyperstack")
        for provider in providers:
            seen = {n: s for n, s in self.observations.items() if self.world.spec.machines[n].provider == provider}
            self.world.handle(Observed(provider=provider, requested_at=self.world.now, observations=seen))

    def answer(self) -> None:
        """Refuse what is asked for now."""
        for start in self.world.take(StartMachine):
            assert isinstance(start, StartMachine)
            self.starts.append((self.world.now, start.machine))
            scopes = self.refusals.get(start.machine, [])
            scope = scopes.pop(0) if scopes else "capacity_pool"
            self.refused.append((self.world.now, start.machine, scope))
            self.world.handle(
                Called(
                    machine=start.machine,
                    call="start",
                    serial=start.serial,
                    outcome="refused",
                    seconds=0.0,
                    reason="refused",
                    scope=scope,
                )
            )
        assert not self.world.take(StopMachine)

    def spend(self, seconds: float, *models: str) -> None:
        end = self.world.now + seconds
        while self.world.now < end:
            for model in models:
                self.world.want(model)
                self.answer()
            self.world.pass_time(1.0, step=1.0)
            self.answer()


@st.composite
def skies(draw: st.DrawFn) -> SimulatedCloud:
    """A lineup of up to five machines for `m`; `other` has one that shares nothing with any of them."""
    names = [f"m{number}" for number in range(draw(st.integers(1, 5)))]
    lineups = {"m": tuple(names), "other": ("zfar",)}
    world = World(spec=spec(lineups, dict.fromkeys(names, "ec2") | {"zfar": "hyperstack"}))
    observations = {
        name: Observation(
            power="stopped",
            provider_state="stopped",
            pool=draw(st.sampled_from(["p1", "p2"])),
            quota=draw(st.sampled_from(["q1", "q2", ""])),
        )
        for name in names
    }
    observations["zfar"] = Observation(power="stopped", provider_state="HIBERNATED", pool="p1", quota="q1")
    refusals = {name: draw(st.lists(st.sampled_from(SCOPES), max_size=6)) for name in names}
    return SimulatedCloud(world, observations, refusals)


@settings(max_examples=25, deadline=None)
@given(sky=skies())
def test_each_candidate_is_tried_before_any_is_tried_again(sky: SimulatedCloud) -> None:
    sky.observe()
    # No pause lasts longer than a minute, and each refusal may pause the others anew.
    sky.spend(CAP - 2, "m")
    first = [name for _, name in sky.starts][: len(sky.world.spec.lineups["m"])]
    assert sorted(first) == sorted(sky.world.spec.lineups["m"])
    for name in first:
        began = sum(1 for _, tried in sky.starts if tried == name)
        busy = sum(1 for _, tried, scope in sky.refused if tried == name and scope == "transient")
        assert began - busy <= LIMIT, "a wake starts a machine so often"


@settings(max_examples=20, deadline=None)
@given(sky=skies())
def test_a_model_that_shares_nothing_with_a_refusal_wakes_at_once(sky: SimulatedCloud) -> None:
    sky.observe()
    sky.spend(5, "m")
    sky.world.want("other")
    assert [e.machine for e in sky.world.take(StartMachine) if isinstance(e, StartMachine)] == ["zfar"]


@settings(max_examples=25, deadline=None)
@given(sky=skies(), scope=st.sampled_from(SCOPES))
def test_a_refusal_pauses_what_it_concerns_and_nothing_else(sky: SimulatedCloud, scope: RefusalScope) -> None:
    sky.observe()
    first = sky.world.spec.lineups["m"][0]
    sky.refusals[first] = [scope]
    sky.world.want("m")
    (start,) = sky.world.take(StartMachine)
    assert isinstance(start, StartMachine)
    refused_at, refused = sky.world.now, sky.observations[first]
    sky.world.handle(
        Called(
            machine=first, call="start", serial=start.serial, outcome="refused", seconds=0.0, reason="no", scope=scope
        )
    )
    for name, machine in sky.world.fleet.machines.items():
        observation = sky.observations[name]
        mine = machine.spec.provider == "ec2"
        concerned = name == first or (
            mine
            and (
                scope == "account"
                or (scope == "capacity_pool" and observation.pool == refused.pool)
                or (scope == "quota" and observation.quota == refused.quota != "")
            )
        )
        if machine.state == "asleep":
            assert (machine.backoff.until > refused_at) == concerned, name
            assert machine.backoff.until <= refused_at + COOL_DOWN_LIMIT_S
