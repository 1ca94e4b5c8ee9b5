"""The doctor's comparison of the hours billed for machines with the hours in the journal."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from shared.messages.bill_coverage import MachineHours
from shared.messages.billing import DayReport
from spotinference.diagnostics import Diagnostic, note, ok, wrong
from spotinference.doctor.links import Link

DAYS = 7
"""Closed days that are compared. A bill arrives within days, so that a machine that runs unnoticed is still running."""
TOLERANCE = Decimal("0.25")
"""Hours per machine and day: more than a minimum charge of a minute and the difference of two clocks."""


def hours(days: Sequence[DayReport]) -> Iterator[Link]:
    """Compare each machine's billed hours of the closed `days` with those in the journal."""
    by_machine: dict[str, list[tuple[str, MachineHours]]] = {}
    for report in days:
        for machine in report.hours:
            by_machine.setdefault(machine.machine, []).append((report.day, machine))
    for name, machine_days in sorted(by_machine.items()):
        figures = {
            "machine": name,
            "tolerance_hours": str(TOLERANCE),
            "days": [_figures(day, machine) for day, machine in machine_days],
        }
        yield Link("hours", _diagnose(name, machine_days), figures)
    if not by_machine:
        yield Link("hours", ok(f"no bill of the last {DAYS} closed days charges for the use of a machine"))


def _diagnose(name: str, days: Sequence[tuple[str, MachineHours]]) -> Diagnostic:
    asleep = [(day, one) for day, one in days if one.asleep > TOLERANCE]
    above = [(day, one) for day, one in days if one.unexplained > TOLERANCE]
    if asleep:
        fix = f"see `spotinference journal --machine {name}`, and the provider's console for its present state"
        return wrong(f"{name} was billed while it was asleep according to the journal: {_describe(asleep)}: {fix}")
    if above:
        return note(f"{name} was billed for hours that the journal does not cover: {_describe(above)}")
    billed, known = (sum((of for of in column if of is not None), Decimal(0)) for column in _columns(days))
    return ok(f"{name}: {billed:.2f} h billed, {known:.2f} h in the journal, in {len(days)} days")


def _columns(days: Sequence[tuple[str, MachineHours]]) -> tuple[list[Decimal | None], list[Decimal | None]]:
    return [one.billed for _, one in days], [one.known for _, one in days]


def _describe(days: Sequence[tuple[str, MachineHours]]) -> str:
    return "; ".join(_day(day, one) for day, one in days)


def _day(day: str, one: MachineHours) -> str:
    billed = "an unknown number of hours" if one.billed is None else f"{one.billed:.2f} h"
    return f"{day} {billed} billed, {one.known:.2f} h in the journal, {one.spend:.2f} USD unexplained"


def _figures(day: str, one: MachineHours) -> dict[str, Any]:
    return {
        "day": day,
        "billed_hours": None if one.billed is None else str(one.billed),
        "known_hours": str(one.known),
        "unexplained_hours": str(one.unexplained),
        "asleep_hours": str(one.asleep),
        "unexplained_usd": str(one.spend),
    }
