"""Where the gateway is, and which engine is asked directly."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.bus.ports import Bus
from shared.bus.topology import FLEET
from shared.config.fleet import Model
from shared.config.sections import Config
from shared.errors import Misconfigured
from shared.messages.waker import MachineRecord
from shared.runtime import suite_file
from spotinference.bucket_reader import read_bucket
from spotinference.context import Context


@dataclass(frozen=True, kw_only=True)
class Place:
    """The engine that is asked directly. `tier` and `machine` are None where it is no machine's on record."""

    origin: str
    tier: str | None
    machine: str | None
    ready: int
    """Machines that serve the model now."""


def model_of(config: Config, name: str | None) -> Model:
    """The one named, or the only one that there is."""
    if name is None and len(config.model) == 1:
        return config.model[0]
    known = ", ".join(config.models) or "none"
    if name is None:
        raise Misconfigured(f"--model: say which one: the configuration has {known}")
    if name not in config.models:
        raise Misconfigured(f"--model: no [[model]] {name!r}; the configuration has: {known}")
    return config.models[name]


def gateway_origin(context: Context, given: str | None) -> str:
    """The one given, the running suite's, the configuration's."""
    if given is not None:
        return given.rstrip("/").removesuffix("/v1")
    running = suite_file.read(context.data_dir)
    if running is not None and "gateway" in running.services:
        return running.services["gateway"].url
    section = context.config().gateway
    if section.port:
        return f"http://{section.host}:{section.port}"
    raise Misconfigured("no gateway: name it with --url, or its suite's folder with --data-dir")


async def place(bus: Bus, model: Model, *, machine: str | None, direct: str | None) -> Place:
    """`Misconfigured` where no such engine can be asked now."""
    records = [record for record, _ in (await read_bucket(bus, FLEET, MachineRecord)).values()]
    awake = ready(records, model)
    if direct is not None:
        origin = direct.rstrip("/").removesuffix("/v1")
        its = next((r for r in records if r.endpoint == origin), None)
        return Place(
            origin=origin, tier=its.tier if its else None, machine=its.machine if its else None, ready=len(awake)
        )
    wanted = [r for r in awake if machine in (None, r.machine)]
    if not wanted:
        serve = ", ".join(r.machine for r in awake) or "none"
        who = "no machine" if machine is None else f"--machine: {machine!r} is not one that"
        raise Misconfigured(f"{who} serves {model.name!r} now; those that do: {serve}. --direct URL names an engine")
    first = wanted[0]
    return Place(origin=str(first.endpoint), tier=first.tier, machine=first.machine, ready=len(awake))


def ready(records: Sequence[MachineRecord], model: Model) -> list[MachineRecord]:
    """The machines that serve the model, in the order of its lineup."""
    found = [r for r in records if r.state == "ready" and r.endpoint is not None and r.tier in model.lineup]
    return sorted(found, key=lambda r: (model.lineup.index(r.tier), r.machine))
