"""The doctor on billed hours: wrong where a machine was billed in its sleep, a note where the journal is silent."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from shared.messages.bill_coverage import MachineHours
from shared.messages.billing import DayReport
from spotinference.doctor.links import Link
from spotinference.doctor.machine_hours import TOLERANCE, hours
from tests.unit.spotinference.test_doctor_links import report


def day(name: str = "2026-11-23", **fields: Any) -> DayReport:
    known: dict[str, Any] = {"billed": Decimal(24), "known": Decimal("11.3"), "spend": Decimal("63.5")}
    amounts: dict[str, Any] = {"machine": "h100-1", "unexplained": Decimal(0), "asleep": Decimal(0), **known, **fields}
    return msgspec.structs.replace(report(hours=(MachineHours(**amounts),)), day=name)


def link(*days: DayReport) -> Link:
    (found,) = hours(days)
    return found


def test_hours_billed_in_sleep_are_wrong_with_the_numbers_and_where_to_look() -> None:
    found = link(day(unexplained=Decimal("12.7"), asleep=Decimal("12.7")))
    assert found.diagnostic.level == "wrong"
    assert "2026-11-23 24.00 h billed against 11.30 known hours, 63.50 USD unexplained" in found.diagnostic.text
    assert "spotinference journal --machine h100-1" in found.diagnostic.text
    assert found.figures == {
        "machine": "h100-1",
        "tolerance_hours": "0.25",
        "days": [
            {
                "day": "2026-11-23",
                "billed_hours": "24",
                "known_hours": "11.3",
                "unexplained_hours": "12.7",
                "asleep_hours": "12.7",
                "unexplained_usd": "63.5",
            }
        ],
    }


@pytest.mark.parametrize(
    ("unexplained", "asleep", "level"),
    [
        (TOLERANCE, TOLERANCE, "ok"),
        (TOLERANCE + Decimal("0.01"), Decimal(0), "note"),
        (TOLERANCE + Decimal("0.01"), TOLERANCE + Decimal("0.01"), "wrong"),
    ],
)
def test_within_the_tolerance_it_holds(unexplained: Decimal, asleep: Decimal, level: str) -> None:
    assert link(day(unexplained=unexplained, asleep=asleep)).diagnostic.level == level


def test_one_bad_day_of_several_is_named_alone() -> None:
    asleep = {"unexplained": Decimal(24), "asleep": Decimal(24), "billed": None, "known": Decimal(0)}
    found = link(day("2026-11-21"), day("2026-11-22", **asleep), day("2026-11-23"))
    assert found.diagnostic.text.count("unexplained") == 1
    assert "2026-11-22 an unknown number of hours billed against 0.00 known hours" in found.diagnostic.text
    assert len(found.figures["days"]) == 3


def test_machines_have_a_link_each_and_no_bill_is_well() -> None:
    other = day(machine="a-1")
    assert [one.figures["machine"] for one in hours([day(), other])] == ["a-1", "h100-1"]
    assert link(day(billed=Decimal("11.3000"), known=Decimal("11.3"))).diagnostic.text == (
        "h100-1: 11.30 h billed against 11.30 known hours in 1 days"
    )
    assert link(report()).diagnostic.level == "ok"
