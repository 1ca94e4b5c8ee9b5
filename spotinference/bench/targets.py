"""Finds the gateway and the engine to measure."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.bus.ports import Bus
from shared.bus.topology import FLEET
from shared.config.fleet import Model
from shared.config.sections import Config
from shared.errors import Misconfigured
from shared.messages.waker import MachineRecord
from shared.runtime import suite_file
from shared.runtime.listener import origin
from spotinference.bucket_reader import read_bucket
from spotinference.context import Context


@dataclass(frozen=True, kw_only=True)
class EngineLocation:
    """The engine to measure directly. `tier` and `machine` are None if no machine on record has it."""

    origin: str
    tier: str | None
    machine: str | None
    ready_machines: int
    """How many machines serve the model now."""


def select_model(config: Config, name: str | None) -> Model:
    """Return the named model, or the only one.

    Raises:
        Misconfigured: there is no such model, or several and no name.
    """
    if name is None and len(config.model) == 1:
        return config.model[0]
    known = ", ".join(config.models) or "none"
    if name is None:
        raise Misconfigured(f"--model is required: the configured models are {known}")
    if name not in config.models:
        raise Misconfigured(f"--model: no [[model]] is named {name!r}; the configured models are {known}")
    return config.models[name]


def gateway_origin(context: Context, url: str | None) -> str:
    """Return the origin in `url`, else the running gateway's, else the configured one."""
    if url is not None:
        return url.rstrip("/").removesuffix("/v1")
    running = suite_file.read(context.data_dir)
    if running is not None and "gateway" in running.services:
        return running.services["gateway"].url
    section = context.config().gateway
    if section.port:
        return origin(section.host, section.port)
    raise Misconfigured("no gateway is running here: pass --url, or --data-dir of the running services")


async def locate_engine(bus: Bus, model: Model, *, machine: str | None, direct: str | None) -> EngineLocation:
    """Return the engine to measure directly. Raises `Misconfigured` if no such engine is ready."""
    records = [record for record, _ in (await read_bucket(bus, FLEET, MachineRecord)).values()]
    awake = ready_machines(records, model)
    if direct is not None:
        origin = direct.rstrip("/").removesuffix("/v1")
        owner = next((r for r in records if r.endpoint == origin), None)
        return EngineLocation(
            origin=origin,
            tier=owner.tier if owner else None,
            machine=owner.machine if owner else None,
            ready_machines=len(awake),
        )
    candidates = [r for r in awake if machine in (None, r.machine)]
    if not candidates:
        serve = ", ".join(r.machine for r in awake) or "none"
        who = "no machine" if machine is None else f"--machine: {machine!r} is not a machine that"
        raise Misconfigured(
            f"{who} serves {model.name!r} now; machines that do: {serve}. You can also pass --direct URL"
        )
    first = candidates[0]
    return EngineLocation(origin=str(first.endpoint), tier=first.tier, machine=first.machine, ready_machines=len(awake))


def ready_machines(records: Sequence[MachineRecord], model: Model) -> list[MachineRecord]:
    """Return the machines that serve the model, in the order of its lineup."""
    machines = [r for r in records if r.state == "ready" and r.endpoint is not None and r.tier in model.lineup]
    return sorted(machines, key=lambda r: (model.lineup.index(r.tier), r.machine))
