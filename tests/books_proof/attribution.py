"""Whose each charge is: a machine's, a tier's, everybody's or nobody's."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.books_proof.facts import Charge, Machine, World

OF_MACHINES = ("Compute", "AI and Machine Learning", "Storage")


@dataclass(frozen=True)
class Owner:
    """A machine with its tier, a tier alone, or neither; then `shared` says whether it is everybody's."""

    machine: Machine | None = None
    tier: str | None = None
    shared: bool = False


def owner(charge: Charge, world: World) -> Owner:
    """By the resource's name, then the disks', then the tag; then shared, then nobody's."""
    names = _names(charge.resource)
    for machine in world.machines:
        if names & {_same(machine.instance)}:
            return Owner(machine, machine.tier)
    for machine in world.machines:
        if names & {_same(resource) for resource in machine.resources}:
            return Owner(machine, machine.tier)
    if charge.tier_tag in {tier.name for tier in world.tiers}:
        return Owner(None, charge.tier_tag)
    other = charge.service is not None and charge.service not in OF_MACHINES
    return Owner(shared=charge.resource is None or other)


def active(world: World) -> list[Charge]:
    """The charges that count: of each source, issuer, account and billing period the newest delivery, or all that add.

    The same files again change nothing.
    """
    groups: dict[tuple[object, ...], list[Charge]] = {}
    seen: set[tuple[object, ...]] = set()
    for delivery in world.deliveries:
        mark = (delivery.source, delivery.vendor, delivery.file_format, delivery.rows)
        if mark in seen:
            continue
        seen.add(mark)
        fresh: dict[tuple[object, ...], list[Charge]] = {}
        for row in delivery.rows:
            fresh.setdefault((row.source, row.issuer, row.account, row.period), []).append(row)
        for key, rows in fresh.items():
            adds = delivery.source in world.append_sources
            groups[key] = [*groups.get(key, []), *rows] if adds else rows
    return [row for rows in groups.values() for row in rows]


def _names(resource: str | None) -> set[str]:
    if resource is None:
        return set()
    last: Sequence[str] = resource.replace(":", "/").split("/")
    return {_same(resource), _same(last[-1])}


def _same(name: str) -> str:
    """Azure writes the same id in other capitals."""
    return name.lower() if name.lower().startswith("/subscriptions/") else name
