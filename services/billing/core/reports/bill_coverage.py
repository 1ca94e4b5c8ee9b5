"""How far the bills of each source reach, and which machines they lack on which day."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.billing.core.allocation.attribution import Fleet
from services.billing.core.utc_time import day_of
from shared.messages.bill_coverage import SourceBills
from shared.messages.billing import DayReport


@dataclass(frozen=True)
class LastCharge:
    """The charges of one source for the use of one resource, within a period."""

    source: str
    resource: str
    until: int
    """The end of the last one, in milliseconds."""


def last_charges(reaches: Iterable[LastCharge], fleet: Fleet) -> dict[str, LastCharge]:
    """Return for each machine the charge for its own use that reaches furthest."""
    last_by_machine: dict[str, LastCharge] = {}
    for reach in sorted(reaches, key=lambda reach: (reach.until, reach.source)):
        owner = fleet.owner_of_resource(reach.resource)
        if owner is not None and owner.machine is not None and not owner.is_part:
            last_by_machine[owner.machine] = reach
    return last_by_machine


def bills_by_source(days: Sequence[DayReport], reach_of: Mapping[str, LastCharge]) -> tuple[SourceBills, ...]:
    """The sources in the order of their names; last the machines for which no source has charged.

    A machine belongs to the source whose charges for it reach furthest.
    """
    source_of: dict[str, str | None] = {machine: reach.source for machine, reach in reach_of.items()}
    lacking = {day.day: [one.machine for one in day.unbilled] for day in days}
    for machines in lacking.values():
        for machine in machines:
            source_of.setdefault(machine, None)
    sources = sorted(set(source_of.values()), key=lambda source: (source is None, source or ""))
    return tuple(_bills(source, source_of, lacking, reach_of) for source in sources)


def _bills(
    source: str | None,
    source_of: Mapping[str, str | None],
    lacking: Mapping[str, Sequence[str]],
    reach_of: Mapping[str, LastCharge],
) -> SourceBills:
    machines = tuple(sorted(machine for machine, of in source_of.items() if of == source))
    missing = {day: tuple(dict.fromkeys(name for name in names if name in machines)) for day, names in lacking.items()}
    missing = {day: names for day, names in missing.items() if names}
    ends = [reach_of[machine].until for machine in machines if machine in reach_of]
    last_day = max(lacking)
    charges_through = min(day_of(max(ends) - 1), last_day) if ends else None
    before = [day for day in lacking if day < min(missing, default="9")]
    whole = before[-1] if before else None
    return SourceBills(
        source=source,
        machines=machines,
        charges_through=charges_through,
        delivered_through=None if charges_through is None or whole is None else min(charges_through, whole),
        missing=missing,
    )
