"""All forms of a report or statement at once, and JSON with every field."""

import json as stdlib
from collections.abc import Iterator
from decimal import Decimal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.billing.adapters.export.json import render_json
from services.billing.adapters.export.report_files import render_files
from services.billing.core.money import to_usd
from services.billing.core.reports.period_report import build_period_report
from shared.messages.billing import DayReport, PeriodReport, Statement
from tests.unit.billing.export.full_reports import WEIGHTS, day_report, evil_day, period_report, statement, unknown
from tests.unit.billing.export.html_page import Page


def reports() -> Iterator[DayReport | PeriodReport | Statement]:
    yield from (
        day_report(),
        unknown(),
        evil_day(),
        period_report(9),
        build_period_report([unknown()], WEIGHTS),
        statement(),
    )


@pytest.mark.parametrize("message", list(reports()))
def test_json_has_every_field_and_comes_back_as_it_went(message: DayReport | PeriodReport | Statement) -> None:
    fields = stdlib.loads(render_json(message), parse_float=pytest.fail)
    if isinstance(message, PeriodReport):
        fields["first"] = fields.pop("from")
    assert msgspec.convert(fields, type(message)) == message
    assert "type" not in stdlib.dumps(fields)


def test_a_decimal_has_no_exponent() -> None:
    message = stdlib.loads(render_json(day_report(spend="0.000000000001")))
    assert message["spend"] == "0.000000000001"
    assert "E-" not in render_json(day_report(spend="0.000000000001")).decode()


def test_the_fields_that_other_tools_rely_on() -> None:
    """As the design names them."""
    day = stdlib.loads(render_json(day_report()))
    named = (
        "day state revision currency spend tokens usd_per_mtok reason causes tiers directions tax spend_before_credits"
    )
    assert set(named.split()) <= set(day)
    assert {"tier", "spend", "tokens", "usd_per_mtok"} <= set(day["tiers"][0])
    period = stdlib.loads(render_json(period_report(3)))
    assert {"from", "to", "spend", "tokens", "usd_per_mtok", "reason", "days"} <= set(period)
    assert set(named.split()) <= set(period["days"][0])
    assert Decimal(period["spend"]) == sum(Decimal(day["spend"]) for day in period["days"])


@pytest.mark.parametrize("message", list(reports()))
def test_each_has_its_files_and_the_same_again(message: DayReport | PeriodReport | Statement) -> None:
    made = render_files(message)
    assert set(made) == ({"json", "csv", "html"} if isinstance(message, Statement) else {"json", "csv", "xlsx", "html"})
    assert made == render_files(message)
    assert all(made.values())


AMOUNTS = st.integers(-(10**24), 10**24).map(to_usd)
COUNTS = st.integers(0, 10**15)
st.register_type_strategy(Decimal, AMOUNTS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.builds(DayReport, day=st.dates().map(str), tokens=COUNTS, revision=COUNTS, tokens_failed=COUNTS))
def test_no_report_can_keep_its_files_from_being_made(report: DayReport) -> None:
    """Whatever the names are, and whichever figures are missing."""
    for message in (report, build_period_report([report, report], WEIGHTS)):
        made = render_files(message)
        assert all(made.values())
        Page(made["html"].decode())


@settings(max_examples=40, deadline=None)
@given(st.builds(Statement, tokens=COUNTS))
def test_no_statement_can_either(message: Statement) -> None:
    Page(render_files(message)["html"].decode())
