"""The fleet as configured, in the form that the core needs. Durations are seconds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import get_args

from services.waker.core.idle import IdleSettings, idle_settings
from shared.config.fleet import Machine
from shared.config.providers import ProviderName, traits_of
from shared.config.sections import Config
from shared.messages.waker import Phase


@dataclass(frozen=True, kw_only=True)
class ObservationPolicy:
    """How often a provider is observed, and what its observations prove."""

    observe_every_s: float
    """While nothing changes."""
    observe_fast_s: float
    """While something changes."""
    settle_s: float
    """For this long after a call, an observation that shows no change proves nothing."""
    stuck_s: float
    """From one stop call to the next."""
    is_remote: bool
    """Its machines' networks come up later than the machines, and it does not notice when an engine dies."""


LOCAL = ObservationPolicy(observe_every_s=1.0, observe_fast_s=0.25, settle_s=0.0, stuck_s=20.0, is_remote=False)
"""An engine gets 10 s to exit by itself."""
CLOUD = ObservationPolicy(observe_every_s=20.0, observe_fast_s=2.0, settle_s=10.0, stuck_s=300.0, is_remote=True)
"""An accepted call may stay invisible for seconds; a machine that is still stopping after minutes needs force."""


def observation_policies() -> dict[ProviderName, ObservationPolicy]:
    return {name: LOCAL if traits_of(name).is_local else CLOUD for name in get_args(ProviderName)}


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """One configured machine, or an orphan."""

    id: str
    tier: str
    """Empty for an orphan."""
    provider: ProviderName
    room: int
    """How many requests it takes at a time."""
    models: tuple[str, ...]
    """The models that it serves; without any it is never woken."""
    served_as: str
    """The engine's name for the first model."""
    endpoint: str | None
    """Where its engine listens; None: its provider reports that once it runs."""
    configured: bool = True
    pair: str = ""
    """Machines of one pair share GPUs: one of them is awake at a time. Empty: it has its own GPUs."""

    @property
    def sleeps(self) -> bool:
        """Whether it is started and stopped; a machine that never sleeps is only watched."""
        return traits_of(self.provider).can_sleep


@dataclass(frozen=True, kw_only=True)
class FleetSpec:
    """The fleet as it should be, and the limits of what is done for it."""

    machines: Mapping[str, MachineSpec]
    lineups: Mapping[str, tuple[str, ...]]
    """Model to its machines, in the order in which they are tried."""
    idle: Mapping[str, IdleSettings]
    """By tier."""
    new_id: Callable[[float], str]
    """Makes a wake's id from the time at which it begins."""
    wake_cap_s: float
    hedge_margin_s: float
    phase_limits: Mapping[Phase, float]
    restart_limit: int
    call_timeout_s: float
    probe_interval_s: float
    demand_timeout_s: float
    gateway_timeout_s: float
    loaded_at: float = 0.0
    """When the configuration was read."""
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    """USD per hour, by tier."""
    observation_policies: Mapping[ProviderName, ObservationPolicy] = field(default_factory=observation_policies)

    def observation_policy(self, machine: MachineSpec) -> ObservationPolicy:
        return self.observation_policies[machine.provider]

    @property
    def providers(self) -> list[ProviderName]:
        """The providers of machines that sleep."""
        return sorted({m.provider for m in self.machines.values() if m.sleeps})


def fleet_spec_of(config: Config, new_id: Callable[[float], str], *, loaded_at: float = 0.0) -> FleetSpec:
    settings = config.waker
    return FleetSpec(
        machines={m.id: _machine(config, m) for m in config.machine},
        lineups={m.name: tuple(machine.id for machine in config.machines_of(m)) for m in config.model},
        idle={tier.name: idle_settings(config, tier) for tier in config.tier},
        new_id=new_id,
        wake_cap_s=float(config.wake_cap),
        hedge_margin_s=min(settings.hedge_margin, config.wake_cap / 10),
        phase_limits={
            "calling": settings.call_timeout * 2,
            "booting": settings.booting_limit,
            "reaching": settings.reaching_limit,
            "loading": settings.loading_limit,
            "first_token": settings.first_token_limit,
        },
        restart_limit=settings.restart_limit,
        call_timeout_s=settings.call_timeout,
        probe_interval_s=settings.probe_interval,
        demand_timeout_s=settings.demand_timeout,
        gateway_timeout_s=settings.gateway_timeout,
        loaded_at=loaded_at,
        prices={tier.name: Decimal(tier.price_per_hour) for tier in config.tier if tier.price_per_hour is not None},
    )


def _machine(config: Config, machine: Machine) -> MachineSpec:
    tier = config.tiers[machine.tier]
    models = [model for model in config.model if tier.name in model.lineup]
    return MachineSpec(
        id=machine.id,
        tier=tier.name,
        provider=tier.provider,
        room=tier.max_concurrency,
        models=tuple(model.name for model in models),
        served_as=(models[0].served_as or models[0].name) if models else "",
        endpoint=machine.endpoint.rstrip("/") if machine.endpoint else None,
        pair=machine.pair or "",
    )
