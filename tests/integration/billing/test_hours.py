"""A machine billed for 24 hours and awake for 11.3, from the journal and the file to the doctor's word."""

from decimal import Decimal
from pathlib import Path

from shared.bus import subjects
from shared.messages.billing import PeriodReport, ReportsQuery
from shared.messages.codec import decode, encode
from shared.messages.waker import MachineState
from spotinference.doctor.machine_hours import hours
from tests.integration.billing.billing_service import billing, configured, publish_transition
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.billing.cost_row_builders import DAY, focus_csv

LIFE: list[tuple[float, MachineState]] = [
    (0, "asleep"),
    (8, "waking"),
    (8.5, "ready"),
    (19, "falling_asleep"),
    (19.3, "asleep"),
]


async def test_case_12_hours_billed_above_hours_awake_are_unexplained_and_the_doctor_reports_it(tmp_path: Path) -> None:
    counted = {"BilledCost": "120.00", "ConsumedQuantity": "24", "ConsumedUnit": "Hours"}
    refund = {
        "BilledCost": "-12.00",
        "ChargeCategory": "Adjustment",
        "ChargePeriodStart": "2026-05-03T02:00:00Z",
        "ChargePeriodEnd": "2026-05-03T03:00:00Z",
    }
    async with billing(tmp_path, configured()) as (books, _):
        for at, state in LIFE:
            await publish_transition(books.bus, "a-1", at, state)
        await books.deliver(focus_csv(counted, refund))
        report = await until(books.report, lambda report: report.causes.get("waking") == Decimal("2.25"))
        assert report.causes["unexplained"] == Decimal("57.15")
        assert report.causes["asleep"] == 0
        assert sum(report.causes.values()) == report.spend == 108
        query = encode(ReportsQuery(to=DAY, days=2))
        period = decode(
            await books.bus.request(subjects.BILLING_REPORTS, query, timeout=PATIENCE_SECONDS), PeriodReport
        )
        (link,) = hours(period.days)
        assert link.diagnostic.level == "wrong"
        assert f"{DAY} 24.00 h billed, 11.30 h in the journal, 63.50 USD unexplained" in link.diagnostic.text
