"""Whose a charge is: by its resource, tag or parent; what is nobody's is shared or unattributed, never dropped."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from services.billing.core.focus import CostRow
from shared.messages.codec import decode

STORAGE = "Storage"
DIRECT_CATEGORIES = frozenset({"Compute", "AI and Machine Learning", STORAGE})
"""FOCUS's service categories of what a machine is made of; all others serve the whole fleet."""


@dataclass(frozen=True)
class Direct:
    """A tier's own charge; `machine` None where only a tag says so."""

    tier: str
    """Of a machine as the configuration has it: of the time that the journal knows, the journal says which."""
    machine: str | None


Owner = Direct | Literal["shared", "unattributed"]


@dataclass(frozen=True)
class Fleet:
    """What the configuration says about whose resources are whose."""

    tiers: tuple[str, ...]
    tier_of: Mapping[str, str]
    """Machine to tier."""
    machine_of: Mapping[str, str]
    """The provider's id of an instance or another resource to the machine."""
    tier_tag: str

    def owner(self, row: CostRow) -> Owner:
        if (machine := self._machine(row.resource_id)) is not None:
            return Direct(self.tier_of[machine], machine)
        if (tier := _tag(row.tags, self.tier_tag)) in self.tiers:
            return Direct(tier, None)
        if (machine := self._machine(row.parent_id)) is not None:
            return Direct(self.tier_of[machine], machine)
        if row.resource_id is None or row.service_category not in DIRECT_CATEGORIES:
            return "shared"
        return "unattributed"

    def _machine(self, resource_id: str | None) -> str | None:
        if resource_id is None:
            return None
        last = resource_id.replace(":", "/").rpartition("/")[2]
        return self.machine_of.get(resource_id) or self.machine_of.get(last)


def _tag(tags: str | None, name: str) -> str:
    if tags is None:
        return ""
    values = decode(tags, dict[str, object])
    return next((str(value) for key, value in values.items() if key.strip() == name), "")
