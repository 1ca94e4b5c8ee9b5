"""The owner of each charge, by its resource, tag or parent. Without one it is shared or unattributed, never dropped."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from services.billing.core.cost_row import CostRow
from shared.messages.codec import Unreadable, decode

STORAGE = "Storage"
DIRECT_CATEGORIES = frozenset({"Compute", "AI and Machine Learning", STORAGE})
"""FOCUS's service categories of what a machine is made of; all others serve the whole fleet."""


@dataclass(frozen=True)
class DirectOwner:
    """The owner is a tier. `machine` is None if only a tag names the tier."""

    tier: str
    """The machine's tier in the configuration. For time that the journal knows, the journal's tier counts."""
    machine: str | None
    is_part: bool = False
    """Whether it is for something that belongs to the machine, such as its disk, and not for the machine itself."""


TAG_PREFIXES = ("", "user:", "user_", "resourceTags/", "resourceTags/user:")
"""What may stand before a resource's tag in AWS's exports; tags of accounts and cost categories have other prefixes."""

Owner = DirectOwner | Literal["shared", "unattributed"]


def is_azure(resource_id: str) -> bool:
    """Whether the id is Azure's. Azure writes the same id in different capitals, so case is ignored."""
    return resource_id.lower().startswith("/subscriptions/")


@dataclass(frozen=True)
class Fleet:
    """Which resources belong to which machines and tiers, by the configuration."""

    tiers: tuple[str, ...]
    tier_of: Mapping[str, str]
    """Machine to tier."""
    machine_of: Mapping[str, str]
    """The provider's id of an instance or another resource to the machine."""
    tier_tag: str
    parts: frozenset[str] = frozenset()
    """The ids of components, such as disks, that belong to a machine."""
    never_billed: frozenset[str] = frozenset()
    """Machines that no provider bills."""
    later: frozenset[str] = frozenset()
    """Tiers that the configuration has only since the day was over: they bear nothing but what a tag says is theirs."""

    def owner_of(self, row: CostRow) -> Owner:
        if (owner_of := self.owner_of_resource(row.resource_id)) is not None:
            return owner_of
        if (tier := _tag_value(row.tags, self.tier_tag)) in {*self.tiers, *self.later}:
            return DirectOwner(tier, None)
        if (owner_of := self.owner_of_resource(row.parent_id)) is not None:
            return replace(owner_of, is_part=row.resource_id is not None)
        if row.resource_id is None or row.service_category not in {*DIRECT_CATEGORIES, None}:
            return "shared"
        return "unattributed"  # a service without a category may be somebody's machine, so it is not shared

    def tag(self, row: CostRow) -> str | None:
        """Return the value of the row's tier tag, whether or not a tier has that name."""
        return _tag_value(row.tags, self.tier_tag) or None

    def expects_bill(self, machine: str, tagged: Collection[str]) -> bool:
        """Whether charges must come for a machine that was awake. Those of one without an id have its tier's tag alone.

        `tagged`: the tiers that have such charges. Of a machine that is configured no more nobody recognizes a charge.
        """
        if machine not in self.tier_of or machine in self.never_billed:
            return False
        return not self.is_billed_by_tag(machine, tagged)

    def is_billed_by_tag(self, machine: str, tagged: Collection[str]) -> bool:
        """Whether charges reach it only through its tier's tag, because it has no id that a charge could name."""
        return machine not in self.machine_of.values() and self.tier_of.get(machine) in tagged

    def owner_of_resource(self, resource_id: str | None) -> DirectOwner | None:
        """Return the owner of a resource by its id alone."""
        name = self._configured_id(resource_id)
        machine = self.machine_of.get(name)
        return None if machine is None else DirectOwner(self.tier_of[machine], machine, name in self.parts)

    def _configured_id(self, resource_id: str | None) -> str:
        """The configured id of a resource, whole or as the last part of the delivered one; empty: there is none."""
        if resource_id is None:
            return ""
        names = (resource_id, resource_id.replace(":", "/").rpartition("/")[2])
        match = next((name for name in names if name in self.machine_of), "")
        if not match and is_azure(resource_id):
            match = next(
                (
                    self._machines_by_lowercase_id[n.lower()]
                    for n in names
                    if n.lower() in self._machines_by_lowercase_id
                ),
                "",
            )
        return match

    @cached_property
    def _machines_by_lowercase_id(self) -> Mapping[str, str]:
        return {resource.lower(): resource for resource in self.machine_of}


def _tag_value(tags: str | None, name: str) -> str:
    """Return the tag's value; "" where there is none, or where the stored tags cannot be read."""
    if tags is None:
        return ""
    try:
        values = {key.strip(): value for key, value in decode(tags, dict[str, object]).items()}
    except Unreadable:
        return ""
    tag_values = (values[key] for prefix in TAG_PREFIXES if values.get(key := prefix + name) is not None)
    return str(next(tag_values, ""))
