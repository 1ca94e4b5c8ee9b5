"""How far each source's bills reach, and what they lack by day: as data, on the page, on the terminal, in the files."""

from dataclasses import replace
from decimal import Decimal

import msgspec

from services.billing.adapters.export import bill_coverage
from services.billing.adapters.export.csv import report_csv
from services.billing.adapters.export.html import report_html
from services.billing.core.reports.bill_coverage import LastCharge, bills_by_source, last_charges
from services.billing.core.reports.period_report import build_period_report
from shared.messages.bill_coverage import SourceBills, Unbilled
from shared.messages.billing import DayReport, PeriodReport
from shared.units import DAY_MS, HOUR_MS
from tests.unit.billing.cost_row_builders import DAY_WINDOW, FLEET
from tests.unit.billing.export.full_reports import EVIL
from tests.unit.billing.export.html_page import Page
from tests.unit.billing.report_builders import WEIGHTS, day, report
from tests.unit.spotinference.test_report_view import shown

FLEET_OF_PARTS = replace(FLEET, parts=frozenset({"vol-a"}))


def unbilled(*machines: str, estimated: bool = False) -> tuple[Unbilled, ...]:
    return tuple(Unbilled(machine=machine, tier="A", estimated=estimated) for machine in machines)


def days() -> list[DayReport]:
    """The 3rd to the 8th; two machines lack their bill on the 5th, another one is estimated on the 8th."""
    result = [report(day(number), "1", 10) for number in range(3, 9)]
    result[2] = report(day(5), None, 10, state="estimated", unbilled=unbilled("a-1", "b-1"), reason="no bill yet: a-1")
    result[5] = msgspec.structs.replace(result[5], unbilled=unbilled("c-1", estimated=True), state="estimated")
    return result


def reach(source: str, resource: str, days: float) -> LastCharge:
    return LastCharge(source, resource, DAY_WINDOW.start + round(days * DAY_MS))


def period() -> PeriodReport:
    reaches = [reach("cloud", "i-a", 4.5), reach("neo", "i-b", 6), reach("old", "i-b", 1), reach("cloud", "vol-a", 9)]
    result = build_period_report(days(), WEIGHTS)
    return msgspec.structs.replace(result, bills=bills_by_source(result.days, last_charges(reaches, FLEET_OF_PARTS)))


def test_a_machine_belongs_to_the_source_whose_charges_for_its_use_reach_furthest() -> None:
    assert period().bills == (
        SourceBills(
            source="cloud",
            machines=("a-1",),
            charges_through=day(7),
            delivered_through=day(4),
            missing={day(5): ("a-1",)},
        ),
        SourceBills(
            source="neo",
            machines=("b-1",),
            charges_through=day(8),
            delivered_through=day(4),
            missing={day(5): ("b-1",)},
        ),
        SourceBills(
            source=None,
            machines=("c-1",),
            charges_through=None,
            delivered_through=None,
            missing={day(8): ("c-1",)},
        ),
    )


def test_a_source_without_fault_is_delivered_through_its_last_charge_and_no_further_than_the_period() -> None:
    whole = [report(day(number), "1", 10) for number in (3, 4)]
    for until, through in ((DAY_MS + HOUR_MS, day(4)), (DAY_MS, day(3)), (9 * DAY_MS, day(4))):
        (result,) = bills_by_source(whole, {"a-1": LastCharge("cloud", "i-a", DAY_WINDOW.start + until)})
        assert (result.charges_through, result.delivered_through, result.missing) == (through, through, {})
    assert bills_by_source(whole, {}) == ()
    lacking = [report(day(3), None, 1, state="estimated", unbilled=unbilled("a-1"))]
    (result,) = bills_by_source(lacking, {"a-1": LastCharge("cloud", "i-a", DAY_WINDOW.end)})
    assert (result.charges_through, result.delivered_through) == (day(3), None)


def test_the_page_has_a_column_for_each_source_and_days_that_are_alike_in_one_row() -> None:
    headings = ["cloud, through 2026-05-04", "neo, through 2026-05-04", "no source yet"]
    assert [bill_coverage.source_heading(source) for source in period().bills] == headings
    assert bill_coverage.coverage_by_days(period()) == [
        ("2026-05-03 to 2026-05-04", ("delivered", "delivered", "nothing due")),
        ("2026-05-05", ("no bill: a-1", "no bill: b-1", "nothing due")),
        ("2026-05-06 to 2026-05-07", ("delivered", "delivered", "nothing due")),
        ("2026-05-08", ("nothing due", "delivered", "no bill: c-1")),
    ]
    html = report_html(period())
    assert all(heading in html for heading in headings)
    assert "no bill: a-1" in html
    text = shown(period())
    assert "bills of cloud, through 2026-05-04\n  2026-05-05: no bill: a-1\n" in text
    assert "spend unknown, $3.0000 known so far" in shown(msgspec.structs.replace(days()[2], spend_known=Decimal(3)))


def test_a_days_page_and_its_csv_name_the_machines_and_no_name_is_executed() -> None:
    evil = report(day(5), None, 10, state="estimated", unbilled=unbilled(*EVIL), reason="no bill yet")
    late = msgspec.structs.replace(
        evil, unbilled=(Unbilled(machine="a-1", tier="A", since="2026-05-05T13:00:00Z", estimated=True),)
    )
    page = Page(report_html(evil))
    assert "unknown" in page.text
    assert "<script>alert" not in report_html(evil)
    assert "from 2026-05-05T13:00:00Z" in Page(report_html(late)).text
    assert 'unbilled,a-1,,,,"estimated, no bill from 2026-05-05T13:00:00Z"' in report_csv(late).decode()
