"""The doctor on billed hours: wrong if a machine was billed while asleep, a note if the journal does not cover it."""

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
    (only,) = hours(days)
    return only


def test_hours_link_is_wrong_when_a_sleeping_machine_was_billed() -> None:
    result = link(day(unexplained=Decimal("12.7"), asleep=Decimal("12.7")))
    assert result.diagnostic.level == "wrong"
    assert "2026-11-23 24.00 h billed, 11.30 h in the journal, 63.50 USD unexplained" in result.diagnostic.text
    assert "spotinference journal --machine h100-1" in result.diagnostic.text
    assert result.figures == {
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
def test_hours_link_is_ok_within_the_tolerance(unexplained: Decimal, asleep: Decimal, level: str) -> None:
    assert link(day(unexplained=unexplained, asleep=asleep)).diagnostic.level == level


def test_hours_link_names_only_the_bad_day() -> None:
    asleep = {"unexplained": Decimal(24), "asleep": Decimal(24), "billed": None, "known": Decimal(0)}
    result = link(day("2026-11-21"), day("2026-11-22", **asleep), day("2026-11-23"))
    assert result.diagnostic.text.count("unexplained") == 1
    assert "2026-11-22 an unknown number of hours billed, 0.00 h in the journal" in result.diagnostic.text
    assert len(result.figures["days"]) == 3


def test_each_machine_has_a_link_and_no_bill_is_ok() -> None:
    other = day(machine="a-1")
    assert [one.figures["machine"] for one in hours([day(), other])] == ["a-1", "h100-1"]
    assert link(day(billed=Decimal("11.3000"), known=Decimal("11.3"))).diagnostic.text == (
        "h100-1: 11.30 h billed, 11.30 h in the journal, in 1 days"
    )
    assert link(report()).diagnostic.level == "ok"
