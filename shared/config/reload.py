"""Decides what of a configuration may change while a service runs: tiers, machines and models."""

import msgspec

from shared.config.sections import Config
from shared.config.validate import find_faults
from shared.errors import Misconfigured

RELOADABLE = ("tier", "machine", "model")


def merge_reloaded(current: Config, new: Config) -> tuple[Config, tuple[str, ...]]:
    """Return the running configuration with the new tiers, machines and models.

    Also return the other sections that differ: they take a restart.

    Raises:
        Misconfigured: the new tables do not fit the running sections, which take a restart first; or they are all
            gone, as in a file that is being written.
    """
    if current.model and not (new.tier or new.machine or new.model):
        raise Misconfigured("it has no tier, machine or model any more: restart the service to run without any")
    sections = [name for name in Config.__struct_fields__ if name not in RELOADABLE]
    changed = tuple(name for name in sections if getattr(new, name) != getattr(current, name))
    merged = msgspec.structs.replace(current, **{name: getattr(new, name) for name in RELOADABLE})
    if faults := find_faults(merged):
        waiting = ", ".join(f"[{name}]" for name in changed)
        raise Misconfigured(f"restart the service, because {waiting} changed as well: {faults[0]}")
    return merged, changed
