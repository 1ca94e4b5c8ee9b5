"""Whose a charge is: by its resource, tag or parent; what is nobody's is shared or unattributed, never dropped."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from services.billing.core.focus import CostRow
from shared.messages.codec import Unreadable, decode

STORAGE = "Storage"
DIRECT_CATEGORIES = frozenset({"Compute", "AI and Machine Learning", STORAGE})
"""FOCUS's service categories of what a machine is made of; all others serve the whole fleet."""


@dataclass(frozen=True)
class Direct:
    """A tier's own charge; `machine` None where only a tag says so."""

    tier: str
    """Of a machine as the configuration has it: of the time that the journal knows, the journal says which."""
    machine: str | None


TAG_PREFIXES = ("", "user:", "user_", "resourceTags/", "resourceTags/user:")
"""What may stand before a resource's tag in AWS's exports; tags of accounts and cost categories have other prefixes."""

Owner = Direct | Literal["shared", "unattributed"]


def is_azure(resource_id: str) -> bool:
    """Whether capitals tell nothing apart: Azure writes the same id in different ones."""
    return resource_id.lower().startswith("/subscriptions/")


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
        if row.resource_id is None or row.service_category not in {*DIRECT_CATEGORIES, None}:
            return "shared"
        return "unattributed"  # a service without a category may be somebody's machine, so it is not shared

    def tag(self, row: CostRow) -> str | None:
        """What the row's tag says, whether or not a tier has that name."""
        return _tag(row.tags, self.tier_tag) or None

    def _machine(self, resource_id: str | None) -> str | None:
        if resource_id is None:
            return None
        last = resource_id.replace(":", "/").rpartition("/")[2]
        found = self.machine_of.get(resource_id) or self.machine_of.get(last)
        if found is None and is_azure(resource_id):
            found = self._in_small_letters.get(resource_id.lower()) or self._in_small_letters.get(last.lower())
        return found

    @cached_property
    def _in_small_letters(self) -> Mapping[str, str]:
        return {resource.lower(): machine for resource, machine in self.machine_of.items()}


def _tag(tags: str | None, name: str) -> str:
    """Return the tag's value; "" where there is none, or where the stored tags cannot be read."""
    if tags is None:
        return ""
    try:
        values = {key.strip(): value for key, value in decode(tags, dict[str, object]).items()}
    except Unreadable:
        return ""
    found = (values[key] for prefix in TAG_PREFIXES if values.get(key := prefix + name) is not None)
    return str(next(found, ""))
