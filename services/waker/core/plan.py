"""What the configuration says about the fleet, as the core needs it. Durations are seconds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shared.config import Config, Machine


@dataclass(frozen=True, kw_only=True)
class MachinePlan:
    """One configured machine."""

    id: str
    tier: str
    sleeps: bool
    """False: it never sleeps, and we only watch it."""
    room: int
    """Requests in flight that it takes."""
    idle_timeout: float
    models: tuple[str, ...]
    """That it serves; without any it is never woken."""
    served_as: str
    """What its engine calls the first of them."""
    endpoint: str | None
    """Of a machine that never sleeps."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The fleet as it should be, and the bounds of what is done for it."""

    machines: Mapping[str, MachinePlan]
    lineups: Mapping[str, tuple[str, ...]]
    """Model to its machines, in the order in which they are tried."""
    new_id: Callable[[float], str]
    """A wake's id for its beginning."""
    wake_cap: float
    restart_limit: int
    call_timeout: float
    probe_interval: float
    demand_timeout: float
    gateway_timeout: float


def plan_of(config: Config, new_id: Callable[[float], str]) -> Plan:
    settings = config.waker
    return Plan(
        machines={m.id: _machine(config, m) for m in config.machine},
        lineups={m.name: tuple(machine.id for machine in config.machines_of(m)) for m in config.model},
        new_id=new_id,
        wake_cap=settings.wake_cap,
        restart_limit=settings.restart_limit,
        call_timeout=settings.call_timeout,
        probe_interval=settings.probe_interval,
        demand_timeout=settings.demand_timeout,
        gateway_timeout=settings.gateway_timeout,
    )


def _machine(config: Config, machine: Machine) -> MachinePlan:
    tier = config.tiers[machine.tier]
    models = [model for model in config.model if tier.name in model.lineup]
    return MachinePlan(
        id=machine.id,
        tier=tier.name,
        sleeps=tier.provider != "static",
        room=tier.max_concurrency,
        idle_timeout=config.waker.idle_timeout if tier.idle_timeout is None else tier.idle_timeout,
        models=tuple(model.name for model in models),
        served_as=(models[0].served_as or models[0].name) if models else "",
        endpoint=machine.endpoint.rstrip("/") if machine.endpoint else None,
    )
