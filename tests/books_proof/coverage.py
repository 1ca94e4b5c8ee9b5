"""How far the bills of each source reach, and which machines have no bill on which day."""

from collections.abc import Sequence
from datetime import UTC, datetime

from tests.books_proof.facts import DAY
from tests.books_proof.oracle import DayFigures

Coverage = tuple[tuple[str, ...], str | None, str | None, dict[str, tuple[str, ...]]]
"""Machines, the last day with a charge for one, the last up to which none is missing, and the missing ones by day."""


def bills_of(days: Sequence[DayFigures]) -> dict[str | None, Coverage]:
    """By source, of the machines that it charged for; under None those that nobody has charged for yet."""
    sources: dict[str, str] = {}
    last: dict[str, int] = {}
    for day in days:
        for machine in day.books.world.machines:
            for row in day.usage(machine):
                sources[machine.id] = row.source
                last[row.source] = max(last.get(row.source, 0), day.start)
    lacking = {day.start: sorted(day.unbilled) for day in days}
    every = {machine for machines in lacking.values() for machine in machines} | set(sources)
    coverages: dict[str | None, Coverage] = {}
    for source in {sources.get(machine) for machine in every}:
        machines = tuple(sorted(machine for machine in every if sources.get(machine) == source))
        missing = {start: tuple(name for name in names if name in machines) for start, names in lacking.items()}
        missing = {start: names for start, names in missing.items() if names}
        through = last.get(source or "")
        whole = min(missing, default=days[-1].start + DAY) - DAY
        delivered = None if through is None or whole < days[0].start else _name(min(through, whole))
        named = {_name(start): names for start, names in missing.items()}
        coverages[source] = machines, None if through is None else _name(through), delivered, named
    return coverages


def _name(start: int) -> str:
    return datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d")
