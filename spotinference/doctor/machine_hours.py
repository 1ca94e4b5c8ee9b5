"""The doctor's link from the bill to the journal: hours billed for machines against hours that they were awake."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from shared.messages.bill_coverage import MachineHours
from shared.messages.billing import DayReport
from spotinference.diagnostics import Diagnostic, note, ok, wrong
from spotinference.doctor.links import Link

DAYS = 7
"""Closed days that are looked at: a bill comes within days, and what it shows still runs."""
TOLERANCE = Decimal("0.25")
"""Hours of one machine and day: above a minute's minimum charge and the difference of two clocks."""


def hours(days: Sequence[DayReport]) -> Iterator[Link]:
    """Each machine's billed hours of the closed `days` against those that the journal knows."""
    found: dict[str, list[tuple[str, MachineHours]]] = {}
    for report in days:
        for machine in report.hours:
            found.setdefault(machine.machine, []).append((report.day, machine))
    for name, its_days in sorted(found.items()):
        figures = {
            "machine": name,
            "tolerance_hours": str(TOLERANCE),
            "days": [_figures(day, machine) for day, machine in its_days],
        }
        yield Link("hours", _judged(name, its_days), figures)
    if not found:
        yield Link("hours", ok(f"no bill of the last {DAYS} closed days has a charge for a machine's use"))


def _judged(name: str, days: Sequence[tuple[str, MachineHours]]) -> Diagnostic:
    asleep = [(day, one) for day, one in days if one.asleep > TOLERANCE]
    above = [(day, one) for day, one in days if one.unexplained > TOLERANCE]
    if asleep:
        fix = f"`spotinference journal --machine {name}` says what it did, its provider's console what it does now"
        return wrong(f"{name} was billed while the journal has it asleep: {_told(asleep)}: {fix}")
    if above:
        return note(f"{name} was billed for hours that the journal does not cover: {_told(above)}")
    billed, known = (sum((of for of in column if of is not None), Decimal(0)) for column in _columns(days))
    return ok(f"{name}: {billed:.2f} h billed against {known:.2f} known hours in {len(days)} days")


def _columns(days: Sequence[tuple[str, MachineHours]]) -> tuple[list[Decimal | None], list[Decimal | None]]:
    return [one.billed for _, one in days], [one.known for _, one in days]


def _told(days: Sequence[tuple[str, MachineHours]]) -> str:
    return "; ".join(_day(day, one) for day, one in days)


def _day(day: str, one: MachineHours) -> str:
    billed = "an unknown number of hours" if one.billed is None else f"{one.billed:.2f} h"
    return f"{day} {billed} billed against {one.known:.2f} known hours, {one.spend:.2f} USD unexplained"


def _figures(day: str, one: MachineHours) -> dict[str, Any]:
    return {
        "day": day,
        "billed_hours": None if one.billed is None else str(one.billed),
        "known_hours": str(one.known),
        "unexplained_hours": str(one.unexplained),
        "asleep_hours": str(one.asleep),
        "unexplained_usd": str(one.spend),
    }
